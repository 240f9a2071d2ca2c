"""``categories``, ``purchaserequests`` with their children, ``selleroffers`` and what sellers show."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from custody.mirror.collections.document import Document, Nested, Stamped
from custody.mirror.collections.marks import Child, Column, Inlined, Owner, Refers, RefersBy
from custody.mirror.collections.values import Flag, Id, Json, Money, OfferPrice, Text, Time, Whole
from custody.store import models
from custody.store.models.enums import OfferCurrency, OfferStatus, PurchaseRequestStatus, ReviewSubjectKind


class Category(Stamped):
    """A node of the taxonomy."""

    collection = "categories"
    table = models.Category

    name: Text
    name_en: Text | None = None
    description: Text | None = None
    parent_id: Annotated[Id | None, Refers("categories")] = None
    is_active: Flag = True
    sort_order: Whole = 0


class Budget(Nested):
    """What a buyer would pay."""

    amount: Annotated[Money | None, Field(ge=0)] = None
    currency: Text = "USDT"


class DeliveryInfo(Nested):
    """How a buyer wants it delivered."""

    method: Text | None = None
    preferred_date: Time | None = None
    instructions: Text | None = None
    recipient_name: Text | None = None
    recipient_phone: Text | None = None


class DeliveryAddress(Nested):
    """Where to."""

    country: Text | None = None
    city: Text | None = None
    street: Text | None = None
    postal_code: Text | None = None


class SellerDeliveryInfo(Nested):
    """What the seller says of the shipment."""

    carrier: Text | None = None
    tracking_number: Text | None = None
    shipped_at: Time | None = None
    estimated_delivery_at: Time | None = None
    notes: Text | None = None


class ServiceInfo(Nested):
    """A service instead of a thing."""

    service_type: Text | None = None
    duration: Text | None = None
    location: Text | None = None
    requirements: Text | None = None


class DeliveryAttempt(Nested):
    """One entry of the delivery code."""

    attempted_by: Annotated[Id | None, Refers("users"), Column("attempted_by_id")] = None
    succeeded: Flag
    attempted_at: Time


class Specification(Nested):
    """One property of what is wanted."""

    key: Text
    value: Text


class PurchaseRequest(Stamped):
    """What a buyer wants; the fleet moves its status (R7)."""

    collection = "purchaserequests"
    table = models.PurchaseRequest
    dropped: ClassVar = {"offers": "each offer names its request"}

    buyer_id: Annotated[Id, Refers("users"), Owner.CREATE_ONLY]
    title: Annotated[Text, Field(max_length=200)]
    description: Annotated[Text, Field(max_length=2000)] = ""
    product_type: Text = "physical_product"
    category_id: Annotated[Id | None, Refers("categories")] = None
    product_link: Text | None = None
    size: Annotated[Text | None, Field(max_length=100)] = None
    color: Annotated[Text | None, Field(max_length=100)] = None
    brand: Annotated[Text | None, Field(max_length=100)] = None
    urgency: Text | None = None
    budget: Annotated[Budget, Inlined("budget_")] = Budget()
    status: PurchaseRequestStatus = "pending"
    selected_offer_id: Annotated[Id | None, Refers("selleroffers")] = None
    delivery_code: Text | None = None
    delivered_at: Time | None = None
    delivery_info: Annotated[DeliveryInfo | None, Child(models.PurchaseRequestDeliveryInfo, "purchase_request_id")] = (
        None
    )
    delivery_address: Annotated[
        DeliveryAddress | None, Child(models.PurchaseRequestDeliveryAddress, "purchase_request_id")
    ] = None
    seller_delivery_info: Annotated[
        SellerDeliveryInfo | None, Child(models.PurchaseRequestSellerDeliveryInfo, "purchase_request_id")
    ] = None
    service_info: Annotated[ServiceInfo | None, Child(models.PurchaseRequestServiceInfo, "purchase_request_id")] = None
    delivery_attempts: Annotated[
        list[DeliveryAttempt], Child(models.DeliveryAttempt, "purchase_request_id", ordinal="ordinal")
    ] = Field(default_factory=list[DeliveryAttempt])
    specifications: Annotated[
        list[Specification], Child(models.PurchaseRequestSpecification, "purchase_request_id", ordinal="ordinal")
    ] = Field(default_factory=list[Specification])
    preferred_seller_ids: Annotated[
        list[Id],
        Refers("users"),
        Child(models.PurchaseRequestPreferredSeller, "purchase_request_id"),
        Column("seller_id"),
    ] = Field(default_factory=list[Any])


class Price(Nested):
    """What is owed: the source of truth."""

    amount: Annotated[OfferPrice, Field(ge=0)]
    currency: OfferCurrency


class SellerOffer(Stamped):
    """A seller's bid."""

    collection = "selleroffers"
    table = models.SellerOffer

    seller_id: Annotated[Id, Refers("users"), Owner.CREATE_ONLY]
    purchase_request_id: Annotated[Id, Refers("purchaserequests"), Owner.CREATE_ONLY]
    title: Annotated[Text, Field(max_length=200)]
    description: Annotated[Text, Field(max_length=1000)] = ""
    price: Annotated[Price, Inlined("price_"), Owner.CREATE_ONLY]
    status: OfferStatus = "pending"
    delivery_days: Annotated[Whole | None, Field(ge=0)] = None
    attachments: Json = Field(default_factory=list[Any])
    require_aml_check: Flag = False
    aml_block_on_failure: Flag = False


class RequestTemplate(Stamped):
    """A request that a seller has filled in before."""

    collection = "requesttemplates"
    table = models.RequestTemplate

    seller_id: Annotated[Id, Refers("users")]
    category_id: Annotated[Id | None, Refers("categories")] = None
    title: Annotated[Text, Field(max_length=200)]
    description: Annotated[Text, Field(max_length=2000)] = ""
    product_type: Text = "physical_product"
    share_link: Text | None = None
    usage_count: Whole = Field(default=0, ge=0)
    is_active: Flag = True
    specifications: Json = Field(default_factory=list[Any])
    default_proposal: Json = None


class Review(Document):
    """Stars for a seller or a template."""

    collection = "reviews"
    table = models.Review

    reviewer_id: Annotated[Id, Refers("users")]
    subject_type: ReviewSubjectKind
    subject_id: Annotated[Id, RefersBy("subject_type", {"seller": "users", "template": "requesttemplates"})]
    purchase_request_id: Annotated[Id | None, Refers("purchaserequests")] = None
    rating: Annotated[Whole, Field(ge=1, le=5)]
    comment: Text | None = None
    created_at: Time
    updated_at: Time


class ShopSettings(Stamped):
    """How a seller's shop looks."""

    collection = "shopsettings"
    table = models.ShopSettings

    seller_id: Annotated[Id, Refers("users")]
    name: Text
    description: Text | None = None
    avatar: Text | None = None
    cover_image: Text | None = None
    reviews_enabled: Flag = True
    social_links: Json = Field(default_factory=dict[str, Any])


class BlogPost(Stamped):
    """An article."""

    collection = "blogposts"
    table = models.BlogPost

    author_id: Annotated[Id | None, Refers("users")] = None
    title: Text
    slug: Text
    content: Text = ""
    media: Json = Field(default_factory=list[Any])
    seo: Json = Field(default_factory=dict[str, Any])
    status: Annotated[Text, Field(pattern="^(draft|published|archived)$")] = "draft"
    views: Whole = Field(default=0, ge=0)
    likes: Whole = Field(default=0, ge=0)
    published_at: Time | None = None
