-- The marketplace's enums, to the letter (seed, "Shared Enum Reference"; 0000, 0003, 0008, 0011, 0016, 0017).

CREATE TYPE public.user_role AS ENUM ('admin', 'buyer', 'seller', 'resolver', 'guard');
CREATE TYPE public.auth_provider AS ENUM ('email', 'google', 'telegram');
CREATE TYPE public.user_status AS ENUM ('active', 'suspended', 'deleted');
CREATE TYPE public.purchase_request_status AS ENUM (
    'pending_payment', 'pending', 'received_offers', 'in_negotiation', 'payment_pending', 'payment_confirmed',
    'in_progress', 'delivery', 'delivered', 'completed', 'disputed', 'refunded', 'seller_paid');
CREATE TYPE public.offer_status AS ENUM ('pending', 'accepted', 'rejected', 'withdrawn', 'active');
CREATE TYPE public.offer_currency AS ENUM ('USD', 'EUR', 'IRR', 'USDT', 'USDC', 'TRY');
CREATE TYPE public.payment_provider AS ENUM ('request.network', 'amn.scanner', 'shkeeper', 'other');
CREATE TYPE public.payment_status AS ENUM (
    'pending', 'processing', 'confirmed', 'completed', 'failed', 'cancelled', 'refunded');
CREATE TYPE public.escrow_state AS ENUM (
    'funded', 'releasable', 'released', 'refunded', 'releasing', 'failed', 'cancelled', 'partial');
CREATE TYPE public.funds_ledger_entry_type AS ENUM (
    'payment_detected', 'provider_fee', 'platform_fee', 'hold', 'release', 'refund', 'dispute_hold', 'adjustment');
CREATE TYPE public.derived_destination_status AS ENUM ('active', 'swept', 'sweeping', 'quarantined');
CREATE TYPE public.ref_kind AS ENUM ('entity', 'template');
CREATE TYPE public.chat_type AS ENUM ('direct', 'group', 'support');
CREATE TYPE public.review_subject_kind AS ENUM ('seller', 'template');
CREATE TYPE public.address_type AS ENUM ('Home', 'Office', 'Other');
CREATE TYPE public.telegram_link_source AS ENUM ('miniapp', 'bot', 'login_widget');
CREATE TYPE public.telegram_link_status AS ENUM ('active', 'blocked');
