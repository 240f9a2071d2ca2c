"""``fleet releases pay-fees`` and ``fee-address``: what the house kept is paid out like everything else (L7, R8)."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import text

from custody.settings.chains import Chain, Token, load_chains
from custody.settings.environment import SettingsError, settings
from custody.store.engine import open_engine, ring_relay, transaction

By = Annotated[str, typer.Option("--by", help="who asks; a label for the record, not an authority")]
ChainOption = Annotated[int, typer.Option("--chain", help="the chain's id")]


def pay_fees(
    chain: ChainOption,
    token: Annotated[str, typer.Option("--token", help="the token's symbol, as CHAINS_FILE has it")],
    kind: Annotated[str, typer.Option("--kind", help="platform or provider")] = "platform",
    to: Annotated[
        str | None, typer.Option("--to", help="a signed fee payee of the address book; default: the newest one")
    ] = None,
    by: By = "operator",
) -> None:
    """Order the payout of fees that the house kept, of every payment whose releases have ended.

    The payments go together, at most 50 a transfer; the policy judges it as a fee_payout, approvers sign it and the
    treasury device too. Asked again, only what was kept since is ordered. The recipient must be a signed fee payee:
    fleet releases fee-address.
    """
    from custody.policy import PolicyRefused, read_in_force
    from custody.policy.safekeeping import signed_folder
    from custody.releases import rows
    from custody.releases.fee_payouts import OrderRefused, order_fees

    if kind not in {"platform", "provider"}:
        raise _refused(f"--kind {kind!r}: expected platform or provider")
    configured = settings()
    engine = open_engine(configured.secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        chains = load_chains(configured.path("chains_file"))
        found, asset = _asset(chains.chain(chain), token)
        folder = signed_folder(configured, chains)
        with transaction(engine) as connection:
            book = None if folder is None else read_in_force(connection, folder, rows.now(connection)).book
            ordered = order_fees(
                connection,
                "platform_fee" if kind == "platform" else "provider_fee",
                found,
                asset,
                by=by,
                book=book,
                recipient=to,
            )
        ring_relay(engine)
    except (OrderRefused, SettingsError, PolicyRefused) as error:
        raise _refused(str(error)) from None
    finally:
        engine.dispose()
    if not ordered.payments:
        typer.echo("No fees are to be paid out: none are kept that no open release or dispute may still give back.")
        return
    typer.echo(
        f"{kind} fees of {ordered.payments} payments, {ordered.amount.normalize():f} {token} in all, are to be paid to "
        f"{ordered.recipient}. Follow them with: fleet releases open"
    )


def fees() -> None:
    """What the house has kept and not paid out yet, and what is on its way, by chain and token."""
    engine = open_engine(settings().secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        with engine.connect() as connection:
            found = connection.execute(
                text(
                    """
                    SELECT b.chain_id, t.symbol, sum(b.platform_fees) AS platform, sum(b.provider_fees) AS provider,
                        sum(b.paying_fees) AS paying
                    FROM fleet.ledger_balances b JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
                    WHERE b.platform_fees + b.provider_fees + b.paying_fees > 0
                    GROUP BY b.chain_id, t.symbol ORDER BY b.chain_id, t.symbol
                    """
                )
            ).all()
    finally:
        engine.dispose()
    table = Table("chain", "token", *(Column(each, justify="right") for each in ("platform", "provider", "being paid")))
    for row in found:
        table.add_row(
            str(row.chain_id),
            row.symbol,
            *(f"{each.normalize():f}" for each in (row.platform, row.provider, row.paying)),
        )
    Console().print(table)


def fee_address(
    address: Annotated[
        str, typer.Argument(help="the house's own wallet for fees, with its checksum; never the treasury")
    ],
    chain: ChainOption,
    label: Annotated[str, typer.Option("--label", help="what approvers see on their devices, at most 36 characters")],
    remove: Annotated[bool, typer.Option("--remove", help="take it out of the address book instead")] = False,
    by: By = "operator",
) -> None:
    """Propose where the house's fees are paid to, as an address book entry that approvers sign (fleet signer approve)."""
    from custody.chain.addresses import InvalidAddress
    from custody.policy import PolicyRefused, read_in_force
    from custody.policy.safekeeping import signed_folder
    from custody.policy.signed_entries import propose_entry
    from custody.releases import rows
    from custody.releases.gate import why_recipient_refused

    configured = settings()
    engine = open_engine(configured.secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        chains = load_chains(configured.path("chains_file"))
        known, folder = chains.chain(chain), signed_folder(configured, chains)
        with transaction(engine) as connection:
            if why := why_recipient_refused(connection, known, address):
                raise _refused(why)
            environment = "dev0"
            if folder is not None:
                environment = read_in_force(connection, folder, rows.now(connection)).genesis.genesis.environment
            entry = propose_entry(
                connection,
                environment=environment,
                user_id=None,
                chain_id=chain,
                address=address,
                label=label,
                by=by,
                action="remove" if remove else "add",
                role="fee_payee",
            )
    except (SettingsError, PolicyRefused, InvalidAddress) as error:
        raise _refused(str(error)) from None
    finally:
        engine.dispose()
    typer.echo(f"Entry {entry.number} of the address book is proposed; approvers sign it: fleet signer approve")


def _asset(chain: Chain, symbol: str) -> tuple[Chain, str]:
    found: list[Token] = [each for each in chain.tokens if each.symbol == symbol]
    if not found:
        known = ", ".join(each.symbol for each in chain.tokens)
        raise _refused(f"--token {symbol!r}: chain {chain.id} has {known}")
    return chain, found[0].address


def _refused(sentence: str) -> typer.Exit:
    typer.secho(sentence, fg="red", err=True)
    return typer.Exit(1)


def register(releases: typer.Typer) -> None:
    """Add the commands to ``fleet releases``."""
    releases.command("pay-fees")(pay_fees)
    releases.command("fees")(fees)
    releases.command("fee-address")(fee_address)
