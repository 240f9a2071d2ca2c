"""Where the follower of MongoDB stands, and the documents that it looks at again."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0030_mirror_following.sql")
