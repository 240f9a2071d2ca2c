-- Who may do what (custody-rules R9). Run at the end of every upgrade: first everything is taken away, then given.
-- Nobody has INSERT, UPDATE or DELETE on funds_ledger_entries or ledger_balances: post_entry() is the only way in.

DO $$
DECLARE r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['fleet_ingress', 'fleet_webhooks', 'fleet_watcher', 'fleet_confirmations', 'fleet_sweeps',
                             'fleet_releases', 'fleet_signer_api', 'fleet_mirror', 'fleet_follower', 'fleet_housekeeping', 'fleet_relay',
                             'fleet_sealer', 'fleet_operator'] LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA fleet FROM %I', r);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', r);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fleet FROM %I', r);
        EXECUTE format('GRANT USAGE ON SCHEMA fleet, public TO %I', r);
    END LOOP;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fleet FROM PUBLIC;

-- The ingress journals; it can read nothing back but the key it just wrote.
GRANT INSERT ON fleet.webhook_deliveries TO fleet_ingress;
GRANT INSERT ON fleet.outbox TO fleet_ingress;
GRANT EXECUTE ON FUNCTION fleet.scanner_callback_secret TO fleet_ingress;

-- Verification links a delivery and asks for a look; it posts nothing (L20).
GRANT SELECT, UPDATE (state, reason, event, payment_id, attempts, run_after, last_error, processed_at)
    ON fleet.webhook_deliveries TO fleet_webhooks;
GRANT UPDATE (look_id) ON fleet.webhook_deliveries TO fleet_webhooks;
GRANT SELECT (intent_id, payment_id) ON fleet.scanner_intents TO fleet_webhooks;
GRANT SELECT ON public.payments, fleet.payment_routes, fleet.tokens, public.derived_destinations TO fleet_webhooks;
GRANT SELECT, INSERT, UPDATE (state, attempts, run_after, updated_at, payment_id) ON fleet.chain_looks TO fleet_webhooks;
GRANT INSERT ON fleet.outbox TO fleet_webhooks;
GRANT SELECT, INSERT, UPDATE ON fleet.dead_work TO fleet_webhooks;

-- The watcher says what the chain holds.
GRANT SELECT, INSERT, UPDATE ON fleet.chain_looks, fleet.chain_facts, fleet.chain_cursors, fleet.chain_nodes,
    fleet.chain_watchers, fleet.dead_work TO fleet_watcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.chain_blocks, fleet.chain_nodes TO fleet_watcher;
GRANT SELECT ON public.payments, public.derived_destinations, fleet.payment_routes, fleet.tokens, fleet.house_accounts,
    fleet.chain_transactions, fleet.ledger_balances, public.funds_ledger_entries, public.config_setting_history TO fleet_watcher;
GRANT SELECT ON fleet.nonce_lanes TO fleet_watcher;
GRANT SELECT (id, max_total_fee_wei, chain_id, treasury, token, recipient, amount_units, state, signing_hash, rejection_hash)
    ON fleet.release_instructions TO fleet_watcher;
GRANT SELECT (instruction_id, kind, max_total_fee_wei) ON fleet.nonce_digests TO fleet_watcher;
GRANT UPDATE (status, escrow_state, transaction_hash, sender, confirmations, updated_at) ON public.payments TO fleet_watcher;
GRANT UPDATE (balance, status, updated_at) ON public.derived_destinations TO fleet_watcher;
GRANT INSERT ON fleet.outbox TO fleet_watcher;

-- Confirmations judge depth.
GRANT SELECT ON fleet.chain_facts, fleet.chain_cursors, fleet.chain_blocks, fleet.payment_routes, fleet.tokens, public.payments,
    public.derived_destinations, public.config_settings, public.config_setting_history, fleet.ledger_balances,
    public.funds_ledger_entries TO fleet_confirmations;
GRANT SELECT ON fleet.sanctions_lists TO fleet_confirmations;
GRANT EXECUTE ON FUNCTION fleet.sanctioned_among, fleet.sanctioned_of TO fleet_confirmations;
GRANT UPDATE (judged_at) ON fleet.chain_facts TO fleet_confirmations;
GRANT UPDATE (status, escrow_state, confirmations, updated_at) ON public.payments TO fleet_confirmations;
GRANT UPDATE (status, quarantine_reason, updated_at) ON public.derived_destinations TO fleet_confirmations;
GRANT SELECT, INSERT, UPDATE ON fleet.chain_looks, fleet.dead_work TO fleet_confirmations;
GRANT INSERT ON fleet.outbox TO fleet_confirmations;

-- Sweeps move coins to the treasury.
GRANT SELECT ON fleet.chain_cursors, fleet.chain_blocks, fleet.tokens, fleet.house_accounts, fleet.payment_routes,
    public.payments, fleet.deposit_accounts, fleet.ledger_balances, public.funds_ledger_entries, public.config_settings,
    public.config_setting_history TO fleet_sweeps;
GRANT SELECT ON fleet.accepted_documents, fleet.forwarder_treasuries TO fleet_sweeps;
GRANT SELECT, INSERT, UPDATE ON fleet.sweep_jobs, fleet.nonce_lanes, fleet.chain_transactions, fleet.chain_facts,
    fleet.dead_work TO fleet_sweeps;
-- Every signature of a nonce is kept as it was made (R1).
GRANT SELECT, INSERT ON fleet.nonce_signatures TO fleet_sweeps, fleet_releases;
GRANT SELECT ON public.derived_destinations TO fleet_sweeps;
-- Totals follow from the sweeps it appends (custody/destinations/sql/sweep_totals.sql).
GRANT UPDATE (status, balance, quarantine_reason, updated_at) ON public.derived_destinations TO fleet_sweeps;
GRANT SELECT, INSERT ON public.derived_destination_sweeps TO fleet_sweeps;
-- What came late with a sweep is the watcher's to look at (L20).
GRANT SELECT, INSERT, UPDATE (state, attempts, run_after, updated_at, payment_id) ON fleet.chain_looks TO fleet_sweeps;
-- What payouts under way may take of the treasury's own coins, which give a drain's fee back (L8).
GRANT SELECT (chain_id, treasury, state, max_total_fee_wei) ON fleet.release_instructions TO fleet_sweeps;
GRANT SELECT, INSERT ON fleet.gas_shares, fleet.sweep_batch_items, fleet.destination_methods TO fleet_sweeps;
GRANT SELECT, INSERT ON fleet.sweep_batches TO fleet_sweeps;
GRANT UPDATE (state, reason, ended_at) ON fleet.sweep_batches TO fleet_sweeps;
GRANT INSERT ON fleet.outbox TO fleet_sweeps;

-- Releases promise, hand out, broadcast and book.
GRANT SELECT ON fleet.treasury_drains TO fleet_releases;
GRANT SELECT (chain_id, treasury, state) ON fleet.sweep_jobs TO fleet_releases;
GRANT SELECT, INSERT, UPDATE ON fleet.shadow_reads, fleet.domain_beginnings TO fleet_releases;
GRANT SELECT (number, domain, to_store) ON fleet.cutovers TO fleet_releases;
GRANT SELECT ON fleet.chain_cursors, fleet.tokens, fleet.house_accounts, fleet.payment_routes, fleet.address_book,
    fleet.ledger_balances, public.funds_ledger_entries, public.seller_offers, public.disputes,
    public.derived_destinations, public.config_settings, public.config_setting_history, public.payments,
    public.purchase_requests TO fleet_releases;
GRANT SELECT (id, legacy_object_id, role, status) ON public.users TO fleet_releases;
GRANT SELECT, INSERT, UPDATE ON fleet.release_instructions, fleet.nonce_lanes, fleet.chain_transactions, fleet.chain_facts,
    fleet.dead_work TO fleet_releases;
GRANT SELECT, UPDATE ON fleet.signature_submissions TO fleet_releases;
-- It says which approvals count, and makes none (R9, R24).
GRANT SELECT, UPDATE (state, refused_reason) ON fleet.approvals TO fleet_releases;
GRANT SELECT, INSERT ON fleet.accepted_documents, fleet.policy_decisions TO fleet_releases;
GRANT SELECT ON fleet.operator_actions TO fleet_releases;
-- What was handed out for a nonce is never changed; only its signature is added (R1).
GRANT SELECT, INSERT, UPDATE (signed_bytes, transaction_hash, signed_at) ON fleet.nonce_digests TO fleet_releases;
GRANT SELECT, INSERT, UPDATE (state, answer, attempts, run_after) ON fleet.release_requests TO fleet_releases;
GRANT SELECT, UPDATE (held_reason, release_due) ON fleet.payment_disputes TO fleet_releases;
GRANT EXECUTE ON FUNCTION fleet.open_dispute, fleet.close_dispute TO fleet_releases;
GRANT EXECUTE ON FUNCTION fleet.sanctioned_of TO fleet_releases;
GRANT SELECT ON fleet.refund_addresses TO fleet_releases;
GRANT SELECT, INSERT, UPDATE (instruction_id, held_reason, attempts, run_after) ON fleet.refund_orders TO fleet_releases;
-- Whether a break-glass was heard outside (R15).
GRANT SELECT (kind, subject_kind, subject_id, acknowledged_at, acknowledged_by) ON fleet.alarms TO fleet_releases;
GRANT UPDATE (status, escrow_state, updated_at) ON public.payments TO fleet_releases;
GRANT UPDATE (status, updated_at) ON public.purchase_requests TO fleet_releases;
GRANT INSERT ON fleet.outbox TO fleet_releases;

-- The signer API reads open instructions and inserts submissions; hand-out is the releases worker's.
GRANT SELECT ON fleet.release_instructions, fleet.tokens, fleet.chain_facts, fleet.address_book, fleet.payment_routes,
    public.funds_ledger_entries, public.derived_destination_sweeps, public.derived_destinations TO fleet_signer_api;
GRANT SELECT (id, xpub_fingerprint) ON fleet.deposit_accounts TO fleet_signer_api;
GRANT SELECT (seal_no, from_tx, to_tx, entries, merkle_root, prev_seal_hash, sealed_at, key_id, seal_hash, signature)
    ON fleet.ledger_seals TO fleet_signer_api;
GRANT SELECT ON fleet.nonce_digests TO fleet_signer_api;
GRANT SELECT, INSERT ON fleet.signature_submissions TO fleet_signer_api;
GRANT SELECT, INSERT (subject_kind, subject_id, digest, person, approver, signature) ON fleet.approvals TO fleet_signer_api;
GRANT SELECT ON fleet.policy_decisions, fleet.operator_actions, fleet.refund_addresses TO fleet_signer_api;
GRANT INSERT ON fleet.outbox TO fleet_signer_api;
-- It gives challenges and keeps what is handed in for them; whether that registers a device is housekeeping's to judge.
GRANT SELECT ON fleet.registration_invitations TO fleet_signer_api;
GRANT SELECT, INSERT (purpose, nonce, invitation_id, expires_at), UPDATE (used_at)
    ON fleet.signer_challenges TO fleet_signer_api;
GRANT SELECT, INSERT (challenge_id, xpub, address, device_fingerprint, device_model, device_label, signature)
    ON fleet.trezor_registrations TO fleet_signer_api;

-- It opens sessions for devices of the signed genesis, and ends them (R6); who is barred is an operator's to say.
GRANT SELECT, INSERT (token_sha256, address, role, person, expires_at), UPDATE (ended_at, ended_by, ended_reason)
    ON fleet.signer_sessions TO fleet_signer_api;
GRANT SELECT ON fleet.barred_signers, fleet.accepted_documents TO fleet_signer_api;

-- The mirror reads what it copies.
GRANT SELECT ON public.payments, public.funds_ledger_entries, public.derived_destinations, public.derived_destination_sweeps,
    public.purchase_requests, public.trezor_accounts, public.trezor_derived_addresses, public.config_settings TO fleet_mirror;
GRANT SELECT (id, legacy_object_id) ON public.users, public.seller_offers, public.disputes TO fleet_mirror;
GRANT SELECT ON fleet.quotes TO fleet_mirror;
GRANT SELECT, UPDATE, DELETE ON fleet.outbox TO fleet_mirror;
GRANT EXECUTE ON FUNCTION fleet.ask_for_entries TO fleet_mirror;
GRANT USAGE ON SEQUENCE fleet.mirror_versions TO fleet_mirror;
GRANT SELECT, INSERT, UPDATE ON public.id_map, public.pg_dualwrite_gaps TO fleet_mirror;
GRANT SELECT, INSERT, UPDATE ON fleet.dead_work TO fleet_mirror;
-- It compares both stores (custody/mirror/agreement): all that is mapped but credentials, and it writes nothing but what
-- MongoDB owns (R7). Who is an administrator, and who logs in as whom, is not a worker's to write: of users and their
-- Telegram accounts it writes nothing.
GRANT SELECT ON public.categories, public.seller_offers, public.request_templates, public.disputes, public.chats,
    public.notifications, public.addresses, public.point_transactions, public.reviews, public.shop_settings,
    public.blog_posts, public.telegram_links TO fleet_mirror;
GRANT SELECT (id, created_at, updated_at, first_name, last_name, role, status, is_email_verified, auth_provider,
    telegram_verified, profile, preferences, referral_code, referred_by_id, points_total, points_available, points_level,
    legacy_object_id) ON public.users TO fleet_mirror;
GRANT SELECT (id, user_id, telegram_user_id, expires_at, created_at, legacy_object_id) ON public.telegram_sessions TO
    fleet_mirror;
GRANT SELECT, INSERT, DELETE ON public.purchase_request_delivery_info, public.purchase_request_delivery_address,
    public.purchase_request_seller_delivery_info, public.purchase_request_service_info, public.delivery_attempts,
    public.purchase_request_specifications, public.purchase_request_preferred_sellers TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, name, name_en, description, parent_id, is_active, sort_order) ON public.categories TO
    fleet_mirror;
GRANT UPDATE (created_at, updated_at, title, description, product_type, category_id, product_link, size, color, brand,
    urgency, budget_amount, budget_currency, status, selected_offer_id, delivery_code, delivered_at) ON
    public.purchase_requests TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, title, description, status, delivery_days, attachments, require_aml_check,
    aml_block_on_failure) ON public.seller_offers TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, seller_id, category_id, title, description, product_type, share_link, usage_count,
    is_active, specifications, default_proposal) ON public.request_templates TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, disputed, metadata) ON public.payments TO fleet_mirror;
GRANT UPDATE (created_at, updated_at) ON public.derived_destinations TO fleet_mirror;
GRANT UPDATE (created_at, updated_at) ON public.trezor_accounts TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, description) ON public.config_settings TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, admin_id, reason, description, status, priority, category, evidence, timeline,
    resolution) ON public.disputes TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, type, purchase_request_id, seller_offer_id, name, participants, messages, metadata,
    last_message_at) ON public.chats TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, user_id, title, message, category, type, is_read, related_id, action_url, metadata) ON
    public.notifications TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, user_id, type, full_name, phone, country, city, street, postal_code, is_primary,
    deleted_at) ON public.addresses TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, user_id, type, source, amount, balance_after, description, related_id, metadata) ON
    public.point_transactions TO fleet_mirror;
GRANT UPDATE (reviewer_id, subject_type, subject_id, purchase_request_id, rating, comment, created_at, updated_at) ON
    public.reviews TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, seller_id, name, description, avatar, cover_image, reviews_enabled, social_links) ON
    public.shop_settings TO fleet_mirror;
GRANT UPDATE (created_at, updated_at, author_id, title, slug, content, media, seo, status, views, likes, published_at) ON
    public.blog_posts TO fleet_mirror;
GRANT SELECT, INSERT, UPDATE ON fleet.mirror_agreements, fleet.mirror_differences TO fleet_mirror;
GRANT SELECT, UPDATE (written_at) ON fleet.mirror_restorations TO fleet_mirror;
GRANT EXECUTE ON FUNCTION fleet.is_cut_over TO fleet_mirror, fleet_follower;
GRANT INSERT ON fleet.outbox TO fleet_mirror;
GRANT SELECT ON fleet.mirror_cursor TO fleet_mirror;

-- The follower brings over what the backend writes to MongoDB (custody/mirror/following), and compares what it may not take (R7).
-- Of payments it inserts what is set once and what MongoDB owns, so that everything else is a new row's default. Credentials
-- it writes and cannot read. It has no way into the outbox: what came from MongoDB is never written back.
GRANT SELECT ON public.payments, public.funds_ledger_entries, public.derived_destinations, public.derived_destination_sweeps,
    public.purchase_requests, public.purchase_request_delivery_info, public.purchase_request_delivery_address,
    public.purchase_request_seller_delivery_info, public.purchase_request_service_info, public.delivery_attempts,
    public.purchase_request_specifications, public.purchase_request_preferred_sellers, public.seller_offers,
    public.trezor_accounts, public.trezor_derived_addresses, public.config_settings, public.disputes, public.categories,
    public.request_templates, public.chats, public.notifications, public.addresses, public.point_transactions,
    public.reviews, public.shop_settings, public.blog_posts, public.telegram_links TO fleet_follower;
GRANT SELECT (id, created_at, updated_at, first_name, last_name, role, status, is_email_verified, auth_provider,
    telegram_verified, profile, preferences, referral_code, referred_by_id, points_total, points_available, points_level,
    legacy_object_id) ON public.users TO fleet_follower;
GRANT SELECT (user_id) ON public.user_passkeys TO fleet_follower;
GRANT SELECT (id, user_id, telegram_user_id, expires_at, created_at, legacy_object_id) ON public.telegram_sessions TO
    fleet_follower;
GRANT INSERT, UPDATE ON public.users, public.categories, public.request_templates, public.chats, public.notifications,
    public.addresses, public.point_transactions, public.reviews, public.shop_settings, public.blog_posts,
    public.telegram_links, public.telegram_sessions TO fleet_follower;
GRANT INSERT, DELETE ON public.user_passkeys, public.purchase_request_delivery_info, public.purchase_request_delivery_address,
    public.purchase_request_seller_delivery_info, public.purchase_request_service_info, public.delivery_attempts,
    public.purchase_request_specifications, public.purchase_request_preferred_sellers TO fleet_follower;
GRANT DELETE ON public.chats, public.notifications, public.addresses, public.point_transactions, public.reviews,
    public.shop_settings, public.blog_posts, public.telegram_links, public.telegram_sessions TO fleet_follower;
GRANT INSERT, UPDATE (created_at, updated_at, title, description, product_type, category_id, product_link, size, color, brand,
    urgency, budget_amount, budget_currency, status, selected_offer_id, delivery_code, delivered_at) ON
    public.purchase_requests TO fleet_follower;
GRANT INSERT, UPDATE (created_at, updated_at, title, description, status, delivery_days, attachments, require_aml_check,
    aml_block_on_failure) ON public.seller_offers TO fleet_follower;
GRANT INSERT, UPDATE (created_at, updated_at, admin_id, reason, description, status, priority, category, evidence, timeline,
    resolution) ON public.disputes TO fleet_follower;
GRANT INSERT (id, legacy_object_id, purchase_request_ref_kind, purchase_request_id, purchase_request_external_ref,
    seller_offer_ref_kind, seller_offer_id, seller_offer_external_ref, buyer_id, seller_ref_kind, seller_id,
    seller_external_ref, amount, currency, provider, direction, network, chain_id, token_address, provider_payment_id,
    payment_reference, disputed, metadata, created_at, updated_at),
    UPDATE (created_at, updated_at, disputed, metadata) ON public.payments TO fleet_follower;
GRANT UPDATE (created_at, updated_at, description) ON public.config_settings TO fleet_follower;
GRANT SELECT, INSERT ON public.id_map TO fleet_follower;
GRANT SELECT, INSERT, UPDATE (resolved_at, resolved_by, resolution) ON public.pg_dualwrite_gaps TO fleet_follower;
GRANT SELECT, INSERT, UPDATE ON fleet.mirror_following TO fleet_follower;
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.mirror_revisits TO fleet_follower;
GRANT SELECT ON fleet.outbox, fleet.mirror_cursor, fleet.backfill_progress TO fleet_follower;

-- The relay rings.
GRANT SELECT, UPDATE, DELETE ON fleet.outbox TO fleet_relay;
GRANT EXECUTE ON FUNCTION fleet.ask_for_entries TO fleet_relay;

-- The sealer reads entries and adds seals; what keeps others from adding one is its key.
GRANT SELECT ON public.funds_ledger_entries TO fleet_sealer;
GRANT SELECT, INSERT ON fleet.ledger_seals TO fleet_sealer;
GRANT SELECT, INSERT, UPDATE ON fleet.dead_work TO fleet_sealer;

-- Every worker may be woken by a schedule.
GRANT SELECT, INSERT, DELETE ON fleet.schedule_runs TO fleet_webhooks, fleet_watcher, fleet_confirmations, fleet_sweeps,
    fleet_releases, fleet_mirror, fleet_housekeeping;
GRANT SELECT ON ALL TABLES IN SCHEMA fleet TO fleet_housekeeping;
REVOKE SELECT ON fleet.scanner_intents FROM fleet_housekeeping;
-- What an API says of payments becomes deliveries: hints, as webhooks are.
GRANT INSERT ON fleet.webhook_deliveries, fleet.outbox TO fleet_housekeeping;
GRANT INSERT, UPDATE ON fleet.reconciliation_cursors TO fleet_housekeeping;
GRANT SELECT, INSERT, UPDATE ON fleet.dead_work TO fleet_housekeeping;
GRANT SELECT (created_at, tx_id) ON public.funds_ledger_entries TO fleet_housekeeping;
GRANT UPDATE (state, reason, trezor_account_id, judged_at) ON fleet.trezor_registrations TO fleet_housekeeping;
GRANT UPDATE (used_at) ON fleet.registration_invitations TO fleet_housekeeping;
GRANT DELETE ON fleet.signer_challenges TO fleet_housekeeping;
GRANT SELECT, INSERT, UPDATE (active, device_label, updated_at) ON public.trezor_accounts TO fleet_housekeeping;
GRANT SELECT (id, status) ON public.users TO fleet_housekeeping;
-- What MongoDB drops by TTL is purged here too, unread.
GRANT SELECT (id, created_at), DELETE ON public.notifications TO fleet_housekeeping;
GRANT SELECT (id, expires_at), DELETE ON public.telegram_sessions TO fleet_housekeeping;
-- Rows that do not come from their account's xpub are put aside (R20).
GRANT SELECT ON public.derived_destinations TO fleet_housekeeping;
GRANT UPDATE (status, quarantine_reason, updated_at) ON public.derived_destinations TO fleet_housekeeping;
GRANT INSERT, UPDATE ON fleet.destination_audits TO fleet_housekeeping;
-- Alarms are raised by triggers alone. It delivers them; in a person's name only that person's function acknowledges.
GRANT UPDATE (acknowledged_at, said_at, attempts, run_after, last_error) ON fleet.alarms TO fleet_housekeeping;

-- It asks for quotes of payments that have a price and no route yet, makes them, and reports one without its payment.
GRANT SELECT (id, legacy_object_id, status, direction, escrow_state, chain_id, token_address, seller_offer_id, updated_at)
    ON public.payments TO fleet_housekeeping;
GRANT SELECT (id, price_amount, price_currency) ON public.seller_offers TO fleet_housekeeping;
GRANT INSERT (payment_id, owed, currency, chain_id, token, asked_by), UPDATE (payment_id, state, bound, reason, attempts,
    run_after, fx_rate, token_price_usd, depeg_adjustment_bps, settle_amount, quoted_at, expires_at, sources)
    ON fleet.quotes TO fleet_housekeeping;
GRANT SELECT, INSERT ON public.payment_quotes TO fleet_housekeeping;
GRANT INSERT ON fleet.accepted_price_files TO fleet_housekeeping;
GRANT SELECT ON public.id_map TO fleet_housekeeping;
GRANT SELECT, INSERT, UPDATE (resolved_at, resolved_by, resolution) ON public.pg_dualwrite_gaps TO fleet_housekeeping;

-- The operator reads everything but credentials and key material, and changes settings.
GRANT SELECT ON ALL TABLES IN SCHEMA fleet TO fleet_operator;
REVOKE SELECT ON fleet.scanner_intents FROM fleet_operator;
GRANT SELECT (intent_id, payment_id, created_at), INSERT (intent_id, payment_id, callback_secret)
    ON fleet.scanner_intents TO fleet_operator;
GRANT SELECT ON public.payments, public.funds_ledger_entries, public.derived_destinations, public.derived_destination_sweeps,
    public.purchase_requests, public.seller_offers, public.disputes, public.config_settings, public.config_setting_history,
    public.pg_dualwrite_gaps, public.id_map, public.payment_quotes, public.trezor_accounts, public.trezor_derived_addresses
    TO fleet_operator;
GRANT SELECT (id, legacy_object_id, first_name, last_name, role, status) ON public.users TO fleet_operator;
GRANT INSERT, UPDATE ON public.config_settings TO fleet_operator;
-- What a gap is about is never changed; a person says how it was closed.
GRANT UPDATE (resolved_at, resolved_by, resolution) ON public.pg_dualwrite_gaps TO fleet_operator;
GRANT INSERT ON public.config_setting_history TO fleet_operator;
-- Where money is expected, and how many decimals a token has, is said once and never changed.
GRANT INSERT ON public.derived_destinations, fleet.payment_routes, fleet.deposit_accounts, fleet.forwarder_treasuries,
    fleet.tokens TO fleet_operator;
GRANT UPDATE (next_index, state) ON fleet.deposit_accounts TO fleet_operator;
GRANT INSERT (payment_id, payment_object_id, owed, currency, chain_id, token, asked_by) ON fleet.quotes TO fleet_operator;
GRANT INSERT (user_id, code_sha256, invited_by, expires_at) ON fleet.registration_invitations TO fleet_operator;
GRANT UPDATE (revoked_at, revoked_by, revoked_reason) ON fleet.trezor_registrations TO fleet_operator;
GRANT UPDATE (ended_at, ended_by, ended_reason) ON fleet.signer_sessions TO fleet_operator;
GRANT INSERT (address, barred_by, reason), DELETE ON fleet.barred_signers TO fleet_operator;
GRANT UPDATE (active, next_address_index, updated_at) ON public.trezor_accounts TO fleet_operator;
GRANT INSERT ON public.trezor_derived_addresses TO fleet_operator;
GRANT UPDATE (state, attempts, run_after, updated_at, payment_id) ON fleet.chain_looks TO fleet_operator;
GRANT INSERT ON fleet.house_accounts, fleet.address_book, fleet.nonce_lanes, fleet.outbox, fleet.chain_looks TO fleet_operator;
GRANT UPDATE (frozen_reason, frozen_at, suspect_since, foreign_below) ON fleet.nonce_lanes TO fleet_operator;
GRANT UPDATE (resolved_at, resolved_by) ON fleet.dead_work TO fleet_operator;
GRANT UPDATE (state, reason, attempts, run_after) ON fleet.webhook_deliveries TO fleet_operator;
-- A draft and no more: what is reserved, handed out and paid is the releases worker's to say.
GRANT INSERT (payment_id, purpose, request_key, chain_id, treasury, token, recipient, amount, amount_units, release_epoch, cause,
    platform_fee, provider_fee, source)
    ON fleet.release_instructions TO fleet_operator;
-- An operator asks for a cancel or higher fees; the releases worker does it, and the device signs it (R1).
GRANT INSERT (instruction_id, kind, reason, requested_by) ON fleet.release_requests TO fleet_operator;
GRANT INSERT (payment_id, cause, source, amount, ordered_by) ON fleet.refund_orders TO fleet_operator;
GRANT INSERT (chain_id, treasury, ordered_by), UPDATE (ordered_by, ordered_at) ON fleet.treasury_drains TO fleet_operator;
-- A buyer's signature as it came; the releases worker recovers it again before it pays anything there (R9, R21).
GRANT INSERT (payment_id, chain_id, address, signed_at, y_parity, r, s, added_by) ON fleet.refund_addresses TO fleet_operator;

GRANT EXECUTE ON FUNCTION fleet.post_entry, fleet.post_entries TO fleet_watcher, fleet_confirmations, fleet_sweeps, fleet_releases;
-- An operator posts by hand, and lets a chain go on, only what one person proposed and two signed (R10).
GRANT EXECUTE ON FUNCTION fleet.propose_adjustment, fleet.execute_adjustment, fleet.withdraw_action, fleet.propose_go_on,
    fleet.execute_go_on, fleet.persons_who_signed TO fleet_operator;
-- Any one guard stops an address, and a list of sanctioned senders only adds; two persons take either back (R10, R13).
GRANT EXECUTE ON FUNCTION fleet.quarantine_destination, fleet.propose_readmission, fleet.execute_readmission,
    fleet.load_sanctions, fleet.sanctioned_among, fleet.sanctioned_of, fleet.propose_delisting, fleet.execute_delisting
    TO fleet_operator;
GRANT EXECUTE ON FUNCTION fleet.security_pauses_of TO fleet_releases, fleet_sweeps, fleet_operator;
-- Which store is believed, and that a document which somebody changed in MongoDB stops nothing any more, are two persons' (R7).
GRANT EXECUTE ON FUNCTION fleet.domain_collections, fleet.cutover_limits, fleet.store_of, fleet.cutover_evidence,
    fleet.why_not_cut_over, fleet.propose_cutover, fleet.execute_cutover, fleet.propose_gap_resolution,
    fleet.execute_gap_resolution TO fleet_operator;
GRANT EXECUTE ON FUNCTION fleet.acknowledge_alarm, fleet.propose_break_glass, fleet.veto_break_glass TO fleet_operator;
-- Whoever meets what it must not judge alone pauses a chain, and so does any one guard.
GRANT EXECUTE ON FUNCTION fleet.pause_chain TO fleet_watcher, fleet_releases, fleet_operator;
-- Every worker looks first whether the database is the one of before (R22).
GRANT EXECUTE ON FUNCTION fleet.pause_after_restore TO fleet_webhooks, fleet_watcher, fleet_confirmations, fleet_sweeps,
    fleet_releases, fleet_mirror, fleet_follower, fleet_housekeeping;
-- A CHECK runs as whoever inserts, which before adoption is the marketplace's backend (L20). It reads its row alone.
GRANT EXECUTE ON FUNCTION fleet.entry_is_sound TO PUBLIC;
