-- The chart of legal movements: ledger-rules.md "Movements", with the role that may post each (R9, L20).
-- Every role has exactly the movements of its own step.
INSERT INTO fleet.posting_rules
    (book_kind, entry_type, reason, debit, credit, poster_role, needs_fact, needs_instruction, reverses)
VALUES
    -- seen
    ('payment', 'payment_detected', 'seen', 'destination', 'detected', 'fleet_watcher', true, false, false),
    -- deep enough: due, or not due (L7)
    ('payment', 'hold', 'deep', 'detected', 'held', 'fleet_confirmations', true, false, false),
    ('payment', 'hold', 'deep', 'detected', 'disputed', 'fleet_confirmations', true, false, false),
    ('payment', 'adjustment', 'surplus', 'detected', 'suspense', 'fleet_confirmations', true, false, false),
    ('payment', 'adjustment', 'late', 'detected', 'suspense', 'fleet_confirmations', true, false, false),
    ('payment', 'adjustment', 'wrong_token', 'detected', 'suspense', 'fleet_confirmations', true, false, false),
    -- locked there while a sanctions list names its sender (R13)
    ('payment', 'adjustment', 'sanctioned', 'detected', 'suspense', 'fleet_confirmations', true, false, false),
    ('payment', 'provider_fee', 'deep', 'payer_paid', 'provider_received', 'fleet_confirmations', true, false, false),
    -- swept
    ('payment', 'adjustment', 'sweep', 'treasury', 'destination', 'fleet_sweeps', true, false, false),
    ('payment', 'adjustment', 'token_fee', 'transfer_cost', 'destination', 'fleet_sweeps', true, false, false),
    -- released, refunded
    ('payment', 'release', 'reserve', 'held', 'releasing', 'fleet_releases', false, true, false),
    ('payment', 'release', 'final', 'releasing', 'treasury', 'fleet_releases', true, true, false),
    ('payment', 'release', 'void', 'releasing', 'held', 'fleet_releases', false, true, false),
    ('payment', 'release', 'void', 'releasing', 'disputed', 'fleet_releases', false, true, false),
    ('payment', 'refund', 'reserve', 'held', 'refunding', 'fleet_releases', false, true, false),
    ('payment', 'refund', 'reserve', 'disputed', 'refunding', 'fleet_releases', false, true, false),
    ('payment', 'refund', 'reserve', 'suspense', 'refunding', 'fleet_releases', false, true, false),
    ('payment', 'refund', 'final', 'refunding', 'treasury', 'fleet_releases', true, true, false),
    ('payment', 'refund', 'void', 'refunding', 'held', 'fleet_releases', false, true, false),
    ('payment', 'refund', 'void', 'refunding', 'disputed', 'fleet_releases', false, true, false),
    ('payment', 'refund', 'void', 'refunding', 'suspense', 'fleet_releases', false, true, false),
    -- the house's fees, with the release that bears them, and back when it is voided
    ('payment', 'platform_fee', 'charged', 'held', 'platform_fees', 'fleet_releases', false, true, false),
    ('payment', 'platform_fee', 'returned', 'platform_fees', 'held', 'fleet_releases', false, true, false),
    ('payment', 'platform_fee', 'returned', 'platform_fees', 'disputed', 'fleet_releases', false, true, false),
    ('payment', 'provider_fee', 'charged', 'held', 'provider_fees', 'fleet_releases', false, true, false),
    ('payment', 'provider_fee', 'returned', 'provider_fees', 'held', 'fleet_releases', false, true, false),
    ('payment', 'provider_fee', 'returned', 'provider_fees', 'disputed', 'fleet_releases', false, true, false),
    -- from a former treasury to the active one (R22): promised, arrived, given up
    ('payment', 'adjustment', 'rotation', 'in_transit', 'treasury', 'fleet_releases', false, true, false),
    ('payment', 'adjustment', 'rotation', 'treasury', 'in_transit', 'fleet_releases', true, true, false),
    ('payment', 'adjustment', 'rotation_void', 'treasury', 'in_transit', 'fleet_releases', false, true, false),
    -- those fees are paid out, by an instruction of their own
    ('payment', 'platform_fee', 'reserve', 'platform_fees', 'paying_fees', 'fleet_releases', false, true, false),
    ('payment', 'platform_fee', 'final', 'paying_fees', 'treasury', 'fleet_releases', true, true, false),
    ('payment', 'platform_fee', 'void', 'paying_fees', 'platform_fees', 'fleet_releases', false, true, false),
    ('payment', 'provider_fee', 'reserve', 'provider_fees', 'paying_fees', 'fleet_releases', false, true, false),
    ('payment', 'provider_fee', 'final', 'paying_fees', 'treasury', 'fleet_releases', true, true, false),
    ('payment', 'provider_fee', 'void', 'paying_fees', 'provider_fees', 'fleet_releases', false, true, false),
    -- disputes
    ('payment', 'dispute_hold', 'opened', 'held', 'disputed', 'fleet_releases', false, false, false),
    ('payment', 'dispute_hold', 'lifted', 'disputed', 'held', 'fleet_releases', false, false, false),
    -- reorganisation: the exact reverse (L1, L20: the watcher's, and only of a dead fact)
    ('payment', 'adjustment', 'reorg', 'detected', 'destination', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'held', 'detected', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'disputed', 'detected', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'suspense', 'detected', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'provider_received', 'payer_paid', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'destination', 'treasury', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'treasury', 'releasing', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'treasury', 'refunding', 'fleet_watcher', true, false, true),
    ('payment', 'adjustment', 'reorg', 'treasury', 'paying_fees', 'fleet_watcher', true, false, true),
    -- what cannot be reversed is a loss, taken back when its coins return (L5); a return that vanishes is that loss again
    ('payment', 'adjustment', 'reorg_loss', 'loss', 'overdraft', 'fleet_watcher', true, false, false),
    ('payment', 'adjustment', 'recovered', 'overdraft', 'loss', 'fleet_watcher', true, false, false),
    ('payment', 'adjustment', 'reorg', 'loss', 'overdraft', 'fleet_watcher', true, false, true),
    -- by hand, as an operator action (R10), and its own correction: the exact reverse
    -- what a payment had when the fleet joined its database
    ('payment', 'adjustment', 'opening', 'destination', 'detected', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'destination', 'held', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'destination', 'disputed', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'destination', 'suspense', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'treasury', 'detected', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'treasury', 'held', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'treasury', 'disputed', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'opening', 'treasury', 'suspense', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'correction', 'detected', 'destination', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'held', 'destination', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'disputed', 'destination', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'suspense', 'destination', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'detected', 'treasury', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'held', 'treasury', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'disputed', 'treasury', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'suspense', 'treasury', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'accepted', 'suspense', 'held', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'fee_borne', 'held', 'transfer_cost', 'fleet_operator', false, false, false),
    ('payment', 'adjustment', 'correction', 'held', 'suspense', 'fleet_operator', false, false, true),
    ('payment', 'adjustment', 'correction', 'transfer_cost', 'held', 'fleet_operator', false, false, true),
    -- the house covers a payment's loss with coins of its own, or its own loss: two entries for a payment, always both
    ('payment', 'adjustment', 'covered', 'overdraft', 'loss', 'fleet_operator', false, false, false),
    ('house', 'adjustment', 'covered', 'loss', 'treasury_house', 'fleet_operator', false, false, false),
    ('house', 'adjustment', 'covered', 'overdraft', 'treasury_house', 'fleet_operator', false, false, false),
    -- house books (L6)
    ('house', 'adjustment', 'funding', 'gas_payer', 'gas_funding', 'fleet_watcher', false, false, false),
    ('house', 'adjustment', 'funding', 'treasury_house', 'gas_funding', 'fleet_watcher', false, false, false),
    ('house', 'adjustment', 'topup', 'gas_float', 'gas_payer', 'fleet_sweeps', false, false, false),
    ('house', 'adjustment', 'gas', 'gas_spent', 'gas_payer', 'fleet_sweeps', false, false, false),
    ('house', 'adjustment', 'gas', 'gas_spent', 'gas_float', 'fleet_sweeps', false, false, false),
    ('house', 'adjustment', 'gas', 'gas_spent', 'treasury_house', 'fleet_releases', false, false, false),
    -- a drain of native coin: the treasury's own coins give its fee back (L8)
    ('house', 'adjustment', 'gas', 'gas_spent', 'treasury_house', 'fleet_sweeps', false, false, false),
    ('house', 'adjustment', 'gas', 'gas_spent', 'gas_payer', 'fleet_releases', false, false, false),
    -- the house's own coins, from a former treasury's book to the active one's (R22): promised, gone, arrived, given up
    ('house', 'adjustment', 'rotation', 'in_transit', 'treasury_house', 'fleet_releases', false, true, false),
    ('house', 'adjustment', 'rotation', 'gas_funding', 'in_transit', 'fleet_releases', true, true, false),
    ('house', 'adjustment', 'rotation', 'treasury_house', 'gas_funding', 'fleet_releases', true, true, false),
    ('house', 'adjustment', 'rotation_void', 'treasury_house', 'in_transit', 'fleet_releases', false, true, false),
    -- what left the treasury without us (L5, R5), taken back when its transaction leaves the chain
    ('house', 'adjustment', 'unauthorised', 'loss', 'overdraft', 'fleet_watcher', true, false, false),
    ('house', 'adjustment', 'recovered', 'overdraft', 'loss', 'fleet_watcher', true, false, true)
ON CONFLICT DO NOTHING;
