"""A marketplace as MongoDB has it, made from a seed: every collection, and every spelling that a writer may have left."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from bson import Decimal128, Int64, ObjectId

from custody.mirror.collections import COLLECTIONS

Raw = dict[str, Any]
START: Final = datetime(2025, 1, 1, tzinfo=UTC)
_TEXTS: Final = ("A lamp", "\N{SNOWMAN} \u0633\u0644\u0627\u0645", "tab\there", 'quo"te\\n', "", "line\nfeed")


class Legacy:
    """``documents``: every collection's, in the order of COLLECTIONS. ``size``: users; the others follow from it."""

    def __init__(self, seed: int, size: int) -> None:
        self._random = random.Random(seed)
        self._next = 0
        self.size = size
        self.documents: dict[str, list[Raw]] = {}
        for collection in COLLECTIONS:
            make: Callable[[int], Raw] = getattr(self, f"_{collection}")
            count = {"users": size, "categories": 1 + size // 4, "configsettings": 5, "fundsledgerentries": size * 2}
            self.documents[collection] = [make(number) for number in range(count.get(collection, size))]

    def count(self) -> int:
        return sum(map(len, self.documents.values()))

    def id(self) -> ObjectId:
        """Ids in the order of making, as a driver's are."""
        self._next += 1
        return ObjectId(int(START.timestamp() + self._next).to_bytes(4) + self._random.randbytes(8))

    # Values as any writer may have left them -------------------------------------------------------------------

    def text(self) -> str:
        return self._random.choice(_TEXTS)

    def time(self) -> datetime:
        return START + timedelta(milliseconds=self._random.randrange(10**10))

    def amount(self, decimals: int = 18) -> Any:
        units = self._random.randrange(1, 10**9)
        return self._random.choice(
            [
                Decimal128(f"{units}.{self._random.randrange(10**decimals):0{decimals}d}"),
                units * 0.01,
                units,
                Int64(units),
                f"{units}.5",
                Decimal128("1E-8"),
            ]
        )

    def whole(self, below: int = 1000) -> Any:
        number = self._random.randrange(below)
        return self._random.choice([number, Int64(number), number * 1.0])

    def json(self) -> Any:
        return self._random.choice(
            [
                {},
                {"seen": self.time(), "by": self.id(), "n": Int64(2**40), "half": 0.5, "none": None},
                {"list": [1, {"deep": [Decimal128("1.10"), b"\x00\x01"]}], "$odd": "key", "a.b": True},
            ]
        )

    def ref(self, collection: str) -> Any:
        """A document's id; now and then as its hex text."""
        found: ObjectId = self._random.choice(self.documents[collection])["_id"]
        return str(found) if self._random.random() < 0.1 else found

    def mixed(self, collection: str, number: int) -> Any:
        return self.ref(collection) if self._random.random() < 0.8 else f"template-checkout-{number}"

    def some(self, optional: Raw) -> Raw:
        """Each of these missing, null or there."""
        made: Raw = {}
        for name, value in optional.items():
            drawn = self._random.random()
            if drawn < 0.6:
                made[name] = value
            elif drawn < 0.8:
                made[name] = None
        return made

    def stamped(self, optional: Raw, **required: Any) -> Raw:
        made = {"_id": self.id(), **required, **self.some(optional), "createdAt": self.time(), "updatedAt": self.time()}
        return {**made, "__v": 0} if self._random.random() < 0.5 else made

    # The collections -------------------------------------------------------------------------------------------

    def _users(self, number: int) -> Raw:
        made = self.stamped(
            {
                "email": f"user{number}@example.org",
                "password": "$2b$10$hash",
                "firstName": self.text(),
                "lastName": self.text(),
                "role": self._random.choice(["buyer", "seller", "admin", "guard", "resolver"]),
                "isEmailVerified": True,
                "profile": self.json(),
                "preferences": self.json(),
                "referralCode": f"R{number}",
                "points": self.some({"total": self.whole(), "available": self.whole(), "level": self.whole()}),
                "passkeys": [
                    {"id": f"key-{number}-{n}", "publicKey": "pk", "counter": self.whole(), "createdAt": self.time()}
                    for n in range(self._random.randrange(3))
                ],
                "refreshTokens": ["secret"],
            }
        )
        made["_number"] = number
        return {name: value for name, value in made.items() if name != "_number"}

    def _categories(self, number: int) -> Raw:
        return self.stamped(
            {"nameEn": self.text(), "description": self.text(), "isActive": True, "sortOrder": self.whole()},
            name=f"Category {number}",
        )

    def _purchaserequests(self, number: int) -> Raw:
        return self.stamped(
            {
                "description": self.text(),
                "productType": "service",
                "categoryId": self.ref("categories"),
                "size": self.text(),
                "urgency": "high",
                "budget": self.some({"amount": self.amount(), "currency": "EUR"}),
                "status": self._random.choice(["pending", "delivered", "disputed", "seller_paid"]),
                "deliveryCode": "123456",
                "deliveredAt": self.time(),
                "deliveryInfo": self.some({"method": "post", "preferredDate": self.time()}),
                "deliveryAddress": {"city": self.text()},
                "sellerDeliveryInfo": {"carrier": "c", "shippedAt": self.time()},
                "serviceInfo": {},
                "deliveryAttempts": [
                    {"attemptedBy": self.ref("users"), "succeeded": n == 1, "attemptedAt": self.time()}
                    for n in range(self._random.randrange(3))
                ],
                "specifications": [{"key": f"k{n}", "value": self.text()} for n in range(self._random.randrange(4))],
                "preferredSellerIds": [each["_id"] for each in self._random.sample(self.documents["users"], 2)],
                "offers": [self.id()],
            },
            buyerId=self.ref("users"),
            title=f"Request {number}",
        )

    def _selleroffers(self, number: int) -> Raw:
        request = self._random.choice(self.documents["purchaserequests"])
        made = self.stamped(
            {
                "description": self.text(),
                "status": "accepted",
                "deliveryDays": self.whole(),
                "attachments": [self.json()],
            },
            sellerId=self.ref("users"),
            purchaseRequestId=request["_id"],
            title=self.text(),
            price={"amount": self.amount(8), "currency": self._random.choice(["USD", "IRR", "USDT"])},
        )
        if number % 2:
            request["selectedOfferId"] = made["_id"]
        return made

    def _requesttemplates(self, number: int) -> Raw:
        return self.stamped(
            {"categoryId": self.ref("categories"), "shareLink": f"s{number}", "specifications": [self.json()],
             "defaultProposal": self.json(), "usageCount": self.whole()},
            sellerId=self.ref("users"),
            title=self.text(),
        )  # fmt: skip

    def _payments(self, number: int) -> Raw:
        status, escrow = self._random.choice(
            [("confirmed", "funded"), ("completed", "released"), ("processing", "partial"), ("failed", None)]
        )
        return self.stamped(
            {
                "escrowState": escrow,
                "provider": self._random.choice(["request.network", "amn.scanner", "shkeeper"]),
                "direction": "in",
                "blockchain": self.some(
                    {"network": "bsc", "chainId": 56, "tokenAddress": "0xaa", "transactionHash": f"0x{number:064x}",
                     "sender": "0xbb", "confirmations": self.whole()}
                ),
                "providerPaymentId": f"rn-{number}",
                "disputed": True,
                "metadata": self.json(),
                "callbackSecret": "secret",
                "quote": {"fxRate": 1},
            },
            purchaseRequestId=self.mixed("purchaserequests", number),
            sellerOfferId=self.mixed("selleroffers", number),
            buyerId=self.ref("users"),
            sellerId=self.mixed("users", number),
            amount={"amount": self.amount(), "currency": "USDT"},
            status=status,
        )  # fmt: skip

    def _deriveddestinations(self, number: int) -> Raw:
        sweeps = [
            {"chainId": 56, "tokenAddress": "0xaa", "transactionHash": f"0x{number:032x}{n:032x}", "logIndex": n,
             "from": "0x01", "to": "0x02", "amount": str(self._random.randrange(2**200)), "createdAt": self.time()}
            for n in range(self._random.randrange(3))
        ]  # fmt: skip
        return self.stamped(
            {"balance": str(self._random.randrange(2**256))},
            buyerId=self.ref("users"),
            sellerOfferId=f"template-tc-{number}" if number % 3 else self.documents["selleroffers"][number]["_id"],
            chainId=Int64(56),
            address=f"0x{number:040x}",
            derivationPath=f"m/44'/60'/0'/0/{number}",
            derivationIndex=number * 1.0,
            status=self._random.choice(["active", "swept", "quarantined"]),
            sweeps=sweeps,
            sweepCount=len(sweeps),
            totalSwept=str(sum(int(str(sweep["amount"])) for sweep in sweeps)),
        )

    def _trezoraccounts(self, number: int) -> Raw:
        return self.stamped(
            {"deviceLabel": self.text(), "nextAddressIndex": 3},
            userId=self.documents["users"][number]["_id"],
            xpubFingerprint=f"0x{number:08x}",
            xpub=f"xpub{number}",
            registrationAddress=f"0x{number:040x}",
            addresses=[
                {"index": n, "address": f"0x{number:036x}{n:04x}", "path": f"m/{n}", "purpose": "deposit",
                 "createdAt": self.time(), **self.some({"paymentId": self.documents["payments"][n]["_id"]})}
                for n in range(self._random.randrange(3))
            ],
        )  # fmt: skip

    def _fundsledgerentries(self, number: int) -> Raw:
        return {
            "_id": self.id(),
            "type": self._random.choice(["payment_detected", "hold", "release", "platform_fee"]),
            "amount": self.amount(),
            "currency": "USDT",
            "createdAt": self.time(),
            "updatedAt": self.time(),
            **self.some(
                {
                    "paymentId": self.ref("payments"),
                    "purchaseRequestId": self.mixed("purchaserequests", number),
                    "sellerId": self.mixed("users", number),
                    "idempotencyKey": f"key-{number}",
                    "metadata": self.json(),
                }
            ),
        }

    def _configsettings(self, number: int) -> Raw:
        return self.stamped(
            {"description": self.text(), "updatedBy": self.ref("users")},
            key=f"confirmation_threshold:{number}",
            value=self._random.choice([200, "text", {"a": [1]}, True, 0]),
        )

    def _disputes(self, number: int) -> Raw:
        return self.stamped(
            {"adminId": self.id(), "evidence": [self.json()], "timeline": [self.json()], "resolution": self.json()},
            purchaseRequestId=self.mixed("purchaserequests", number),
            buyerId=self.ref("users"),
            sellerId=str(self.id()),
            reason=self.text() or "late",
            priority="high",
        )

    def _chats(self, _: int) -> Raw:
        return self.stamped(
            {
                "purchaseRequestId": self.ref("purchaserequests"),
                "sellerOfferId": self.ref("selleroffers"),
                "participants": [{"user": self.id(), "joined": self.time()}],
                "messages": [{"_id": self.id(), "text": self.text(), "readBy": [self.json()]} for _ in range(3)],
                "lastMessageAt": self.time(),
            },
            type=self._random.choice(["direct", "group", "support"]),
        )

    def _notifications(self, number: int) -> Raw:
        return self.stamped(
            {"message": self.text(), "isRead": True, "relatedId": self.id(), "metadata": self.json()},
            userId=self._random.choice([str(self.id()), self.ref("users")]),
            title=self.text(),
            category="payment",
            type=f"t{number}",
        )

    def _addresses(self, _: int) -> Raw:
        return self.stamped(
            {"fullName": self.text(), "city": self.text(), "deletedAt": self.time()}, userId=self.ref("users")
        )

    def _pointtransactions(self, _: int) -> Raw:
        return self.stamped(
            {"balanceAfter": self.whole(), "metadata": self.json(), "relatedId": self.id()},
            userId=self.ref("users"), type="grant", source="referral", amount=-1 - self._random.randrange(99),
        )  # fmt: skip

    def _reviews(self, number: int) -> Raw:
        kind = self._random.choice(["seller", "template"])
        return self.stamped(
            {"comment": self.text(), "purchaseRequestId": self.ref("purchaserequests")},
            reviewerId=self.documents["users"][number]["_id"],
            subjectType=kind,
            subjectId=self.ref("users" if kind == "seller" else "requesttemplates"),
            rating=self._random.choice([1, 5.0, Int64(3)]),
        )

    def _shopsettings(self, number: int) -> Raw:
        return self.stamped(
            {"description": self.text(), "socialLinks": self.json(), "reviewsEnabled": False},
            sellerId=self.documents["users"][number]["_id"],
            name=self.text(),
        )

    def _blogposts(self, number: int) -> Raw:
        return self.stamped(
            {"authorId": self.ref("users"), "media": [self.json()], "seo": self.json(), "views": self.whole(),
             "publishedAt": self.time()},
            title=self.text(), slug=f"post-{number}", status="published",
        )  # fmt: skip

    def _telegramlinks(self, number: int) -> Raw:
        return self.stamped(
            {"username": self.text(), "lastSeenAt": self.time()},
            userId=self.documents["users"][number]["_id"], telegramUserId=str(number), source="bot",
        )  # fmt: skip

    def _telegramsessions(self, number: int) -> Raw:
        return {
            "_id": self.id(), "telegramUserId": str(number), "tokenHash": f"h{number}", "token": "secret",
            "initDataFingerprint": f"f{number}", "expiresAt": self.time(), "createdAt": self.time(),
            **self.some({"userId": self.ref("users")}),
        }  # fmt: skip


def refer_among_themselves(legacy: Legacy) -> Iterator[Raw]:
    """Users referred by earlier and later users, and categories under later ones; yields what was changed."""
    users, categories = legacy.documents["users"], legacy.documents["categories"]
    for number, user in enumerate(users):
        if number % 3 == 0:
            user["referredBy"] = users[-1 - number]["_id"]
            yield user
    for category, parent in pairwise(categories):
        category["parentId"] = parent["_id"]
        yield category
