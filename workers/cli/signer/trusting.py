"""``fleet signer trust``: what this machine believes by itself."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from custody.destinations.derivation import address_at, xpub_fingerprint
from custody.settings.environment import SettingsError, settings
from workers.cli.signer.desk import fail, signer
from workers.signer import Trust, load_trust
from workers.signer.pinned_tls import certificate_pin
from workers.signer.trust import TrustedSafe

trust = typer.Typer(help="What this machine believes, whatever a server says.", no_args_is_help=True)
signer.add_typer(trust, name="trust")


@trust.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="default SIGNER_TRUST_FILE")] = None,
) -> None:
    """Check the trust file and print it, to be compared with the notes of the ceremony."""
    try:
        found = load_trust(file or settings().path("signer_trust_file"))
    except SettingsError as error:
        raise fail(error) from None
    for line in _lines(found):
        Console().print(line, highlight=False, soft_wrap=True)


@trust.command()
def pin(certificate: Annotated[Path, typer.Argument(help="the API's certificate, PEM")]) -> None:
    """The pin of a certificate, for [api] certificate_sha256."""
    try:
        Console().print(certificate_pin(certificate.read_bytes()), highlight=False)
    except OSError as error:
        raise fail(SettingsError(f"{certificate} cannot be read: {error.strerror}")) from None
    except ValueError:
        raise fail(SettingsError(f"{certificate} is no certificate in PEM form")) from None


def _safe(found: TrustedSafe) -> list[str]:
    here = {found.owner: ", signs here"}
    return [
        f"  safe       {found.threshold} of {len(found.owners)} owners, no modules, guard {found.guard or 'none'}",
        f"  code       singleton {found.singleton_code_hash}, its own {found.proxy_code_hash or 'not pinned'}",
        f"  handler    {found.fallback_handler}",
        *(f"  owner      {each}{here.get(each, '')}" for each in found.owners),
    ]


def _lines(found: Trust) -> list[str]:
    lines = [f"environment  {found.environment}"]
    for chain in found.chains:
        lines += [
            f"chain        {chain.id} {chain.name}, genesis {chain.genesis_hash}",
            f"  treasury   {chain.treasury}, device {chain.device_fingerprint or 'not pinned'}",
            *([] if chain.safe is None else _safe(chain.safe)),
            *([] if chain.native_fee_proxy is None else [f"  coin proxy {chain.native_fee_proxy}"]),
            *(
                f"  former     {each.address}, {each.state}, device {each.device_fingerprint or 'not pinned'}"
                for each in chain.former_treasuries
            ),
            f"  depth      {chain.depth} confirmations",
            f"  nodes      {', '.join(urlsplit(url).hostname or '?' for url in chain.verify_rpc) or 'none: give --verify-rpc'}",
            *(f"  token      {each.symbol}, {each.decimals} decimals, {each.address}" for each in chain.tokens),
        ]
    for account in found.deposit_accounts:
        lines.append(f"deposits     {xpub_fingerprint(account.xpub)}, first address {address_at(account.xpub, 0)}")
    lines += [f"approver     {each.person} {each.address}" for each in found.approvers]
    lines += [
        f"k            {found.k} of {len(found.approvers)}",
        f"approvals    {found.approvals} persons a payout",
        f"policy       {found.policy.hash or 'any hash'}, version {found.policy.minimum_version or 1} or newer",
        f"seals        signed by {', '.join(found.ledger.keys)}",
        f"API          {found.api.certificate_sha256 if found.api else 'not pinned'}",
        f"book         {found.address_book or 'entries come with each instruction'}",
    ]
    return lines
