"""A worker whose broker dies at the moment of an acknowledgement begins again instead of waiting for ever.

Celery logs such an acknowledgement as lost and goes on. With one message at a time, the channel then counts that message
as still being worked on, fetches no other, and has no open call that would show it the lost connection: the worker is up
and does nothing (seen after ``kill -9`` of Valkey). Ending is safe, because the work is a row and its message is given
to the next process.
"""

from typing import Any

import structlog
from celery import Task
from celery.worker import state
from celery.worker.request import Request

log = structlog.get_logger(__name__)

EXIT_CODE = 75  # EX_TEMPFAIL: the supervisor starts it again


class DoorbellRequest(Request):
    """Ends the worker when the broker did not take what became of a message."""

    def acknowledge(self) -> None:
        super().acknowledge()
        self._begin_again_if_unheard()

    def reject(self, requeue: bool = False) -> None:
        super().reject(requeue=requeue)
        self._begin_again_if_unheard()

    def _begin_again_if_unheard(self) -> None:
        message: Any = self.message
        if not message.acknowledged:
            log.error(
                "broker_lost_at_acknowledgement", unblocks="the worker ends and is started again", task_id=self.id
            )
            state.should_stop = EXIT_CODE


class DoorbellTask(Task):
    """A task whose messages are handled by ``DoorbellRequest``."""

    Request = DoorbellRequest
