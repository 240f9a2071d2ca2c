"""``chats`` and ``notifications``."""

from typing import Annotated, Any

from pydantic import Field

from custody.mirror.collections.document import Stamped
from custody.mirror.collections.marks import Refers
from custody.mirror.collections.values import Flag, Id, IdText, Json, Text, Time
from custody.store import models
from custody.store.models.enums import ChatType


class Chat(Stamped):
    """A conversation, kept whole."""

    collection = "chats"
    table = models.Chat

    type: ChatType = "direct"
    purchase_request_id: Annotated[Id | None, Refers("purchaserequests")] = None
    seller_offer_id: Annotated[Id | None, Refers("selleroffers")] = None
    name: Text | None = None
    participants: Json = Field(default_factory=list[Any])
    messages: Json = Field(default_factory=list[Any])
    metadata: Json = Field(default_factory=dict[str, Any])
    last_message_at: Time | None = None


class Notification(Stamped):
    """A message to a user, gone after 90 days."""

    collection = "notifications"
    table = models.Notification

    user_id: IdText
    title: Text
    message: Text = ""
    category: Text
    type: Text
    is_read: Flag = False
    related_id: IdText | None = None
    action_url: Text | None = None
    metadata: Json = Field(default_factory=dict[str, Any])
