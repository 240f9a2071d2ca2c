"""The maker's definitions (R2): signed by two of its keys, of that chain and token, saying what is pinned; nothing else."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from trezorlib import cosi, definitions, merkle_tree, protobuf
from trezorlib.messages import DefinitionType, EthereumNetworkInfo, EthereumTokenInfo
from typer.testing import CliRunner

from custody.settings.environment import settings
from custody.trezor import UnsignedTransaction, device_screens, encode_erc20_transfer
from custody.trezor.definitions import (
    DefinitionRefused,
    MakerKeys,
    maker_keys,
    network_path,
    read_definitions,
    token_path,
)
from custody.trezor.readability import (
    DEVICE_READABILITY,
    MINIMUM_FIRMWARE,
    Unit,
    why_amount_not_readable,
    why_firmware_refused,
)
from tests.counts import declared
from tests.policy_files import TREASURY_BSC, USDT_BSC
from workers.cli.signer import EXIT_REFUSED, signer

PRIVATE = [bytes([number]) * 32 for number in (1, 2, 3)]
KEYS = MakerKeys([cosi.pubkey_from_privkey(each) for each in PRIVATE], 2)
CHAIN = 56


def encoded(message: protobuf.MessageType) -> bytes:
    target = BytesIO()
    protobuf.dump_message(target, message)
    return target.getvalue()


def token_info(**changed: object) -> EthereumTokenInfo:
    said: dict[str, object] = {
        "address": bytes.fromhex(USDT_BSC[2:]), "chain_id": CHAIN, "symbol": "USDT", "decimals": 18, "name": "Tether",
    }  # fmt: skip
    return EthereumTokenInfo(**{**said, **changed})  # pyright: ignore[reportArgumentType]


def network_info(chain_id: int = CHAIN) -> EthereumNetworkInfo:
    return EthereumNetworkInfo(chain_id=chain_id, symbol="BNB", slip44=60, name="BNB Smart Chain")


def definition(
    message: protobuf.MessageType, kind: DefinitionType, *, signers: tuple[int, ...] = (0, 1), mask: int | None = None
) -> bytes:
    """A definition as the maker publishes it, signed by some of the test's own keys."""
    payload = definitions.DefinitionPayload(
        magic=definitions.FORMAT_MAGIC, data_type=kind, timestamp=1_700_000_000, data=encoded(message)
    )
    other = b"another leaf"
    tree = merkle_tree.MerkleTree([payload.build(), other])
    signature = cosi.sign_with_privkeys(tree.get_root_hash(), [PRIVATE[each] for each in signers])
    return definitions.Definition(
        payload=payload,
        proof=tree.get_proof(payload.build()),
        sigmask=sum(1 << each for each in signers) if mask is None else mask,
        signature=signature,
    ).build()


TOKEN = definition(token_info(), DefinitionType.ETHEREUM_TOKEN)
NETWORK = definition(network_info(), DefinitionType.ETHEREUM_NETWORK)


def write(folder: Path, *, token: bytes | None = TOKEN, network: bytes | None = NETWORK) -> Path:
    for path, content in ((token_path(CHAIN, USDT_BSC), token), (network_path(CHAIN), network)):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            target.write_bytes(content)
    return folder


def test_what_the_maker_signed_is_taken(tmp_path: Path) -> None:
    found = read_definitions(write(tmp_path), CHAIN, USDT_BSC, symbol="USDT", decimals=18, keys=KEYS)
    assert (found.network, found.token, found.symbol, found.decimals) == (NETWORK, TOKEN, "USDT", 18)
    coin = read_definitions(tmp_path, CHAIN, None, symbol="BNB", decimals=18, keys=KEYS)
    assert (coin.network, coin.token) == (NETWORK, None)


def test_the_makers_own_keys_are_not_its_development_key() -> None:
    found = maker_keys()
    assert (len(found.keys), found.required) == (3, 2)
    assert not set(found.keys) & set(definitions.DEFINITIONS_DEV_PUBLIC_KEYS)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (definition(token_info(), DefinitionType.ETHEREUM_TOKEN, signers=(0,)), "no definition signed by"),
        (definition(token_info(), DefinitionType.ETHEREUM_TOKEN, mask=0b101), "no definition signed by"),
        (definition(token_info(), DefinitionType.ETHEREUM_TOKEN, mask=0b1011), "no definition signed by"),
        (definition(token_info(), DefinitionType.ETHEREUM_NETWORK), "of another kind"),
        (definition(token_info(decimals=6), DefinitionType.ETHEREUM_TOKEN), "says decimals 6, this machine pins 18"),
        (definition(token_info(symbol="USDC"), DefinitionType.ETHEREUM_TOKEN), "says symbol USDC"),
        (definition(token_info(chain_id=1), DefinitionType.ETHEREUM_TOKEN), "says chain id 1"),
        (
            definition(token_info(address=bytes.fromhex(TREASURY_BSC[2:])), DefinitionType.ETHEREUM_TOKEN),
            "says token 0x",
        ),
        (b"", "no definition signed by"),
        (b"trzd1" + bytes(200), "no definition signed by"),
        (bytes(5_000), "over 4096 bytes"),
        (None, "fleet signer definitions fetch"),
    ],
    ids=range(12),
)
def test_anything_else_is_refused(tmp_path: Path, token: bytes | None, words: str) -> None:
    with pytest.raises(DefinitionRefused, match=words):
        read_definitions(write(tmp_path, token=token), CHAIN, USDT_BSC, symbol="USDT", decimals=18, keys=KEYS)


def test_every_changed_byte_is_refused(tmp_path: Path) -> None:
    taken = 0
    for at in range(0, len(TOKEN), declared(1, 3)):
        write(tmp_path, token=TOKEN[:at] + bytes([TOKEN[at] ^ 1]) + TOKEN[at + 1 :])
        try:
            read_definitions(tmp_path, CHAIN, USDT_BSC, symbol="USDT", decimals=18, keys=KEYS)
            taken += 1
        except DefinitionRefused:
            continue
    assert taken == 0


def test_a_network_of_another_chain_is_refused(tmp_path: Path) -> None:
    other = definition(network_info(137), DefinitionType.ETHEREUM_NETWORK)
    with pytest.raises(DefinitionRefused, match="is of chain 137, not 56"):
        read_definitions(write(tmp_path, network=other), CHAIN, None, symbol="BNB", decimals=18, keys=KEYS)


# What a device can show


TRANSFER = UnsignedTransaction(CHAIN, 1, 1, 1, 60_000, USDT_BSC, 0, encode_erc20_transfer(TREASURY_BSC, 10**20))


@pytest.mark.parametrize("model", ["T1B1", "T3T1"])
def test_a_token_that_is_not_built_in_needs_its_definition(model: str) -> None:
    firmware = "1.14.2" if model == "T1B1" else "2.9.0"
    assert "fetch its definition" in (why_amount_not_readable(TRANSFER, model, firmware) or "")
    assert why_amount_not_readable(TRANSFER, model, firmware, has_definition=True) is None
    raw = why_amount_not_readable(TRANSFER, model, firmware, raw_units_approved=True)
    assert (raw is None) == (model != "T1B1")


def test_with_its_definition_the_device_shows_the_tokens_own_amount() -> None:
    assert "\n".join(device_screens(TRANSFER, "T1B1", "1.14.2")).count("UNKN") == 1
    screens = device_screens(TRANSFER, "T1B1", "1.14.2", Unit("USDT", 18))
    assert screens[0].startswith("Send\n100\nUSDT to 0x")


def test_the_table_has_a_row_for_each_pair_that_is_readable() -> None:
    pairs = {(row.chain_id, row.token) for row in DEVICE_READABILITY}
    assert len(pairs) == len(DEVICE_READABILITY)
    for row in DEVICE_READABILITY:
        transaction = (
            UnsignedTransaction(row.chain_id, 1, 1, 1, 21_000, TREASURY_BSC, 1)
            if row.token == "native"
            else UnsignedTransaction(row.chain_id, 1, 1, 1, 60_000, row.token, 0, TRANSFER.data)
        )
        firmware = ".".join(map(str, row.minimum_firmware))
        assert why_amount_not_readable(transaction, row.model, firmware) is None
        assert why_amount_not_readable(transaction, row.model, "1.12.0") is not None


@pytest.mark.parametrize(
    ("model", "firmware", "words"),
    [
        ("T1B1", "1.14.1", "its firmware is 1.14.1, a T1B1 needs at least 1.14.2"),
        ("T2T1", "2.3.0", "a T2T1 needs at least 2.4.3"),
        ("T2B1", "2.6.2", "a T2B1 needs at least 2.6.3"),
        ("T3B1", "2.8.1", "a T3B1 needs at least 2.8.3"),
        ("T3T1", "2.7.1", "a T3T1 needs at least 2.7.2"),
        ("T3W1", "2.12.5", "model T3W1 is not in this machine's table of firmwares (T1B1, T2T1, T2B1, T3B1, T3T1)"),
        ("T9X9", "9.9.9", "model T9X9 is not in this machine's table"),
        ("", "2.12.5", "is not in this machine's table"),
        ("T1B1", "unknown", "a T1B1 needs at least 1.14.2"),
        ("T3T1", "2.8", None),
        ("T3T1", "2", "a T3T1 needs at least 2.7.2"),
    ],
)
def test_a_firmware_below_the_table_or_a_model_beside_it_holds_no_treasury(
    model: str, firmware: str, words: str | None
) -> None:
    why = why_firmware_refused(model, firmware)
    assert why is None if words is None else words in (why or "")


@pytest.mark.parametrize("model", MINIMUM_FIRMWARE)
def test_the_tables_own_firmware_and_every_later_one_hold_a_treasury(model: str) -> None:
    major, minor, patch = MINIMUM_FIRMWARE[model]
    for later in ((major, minor, patch), (major, minor, patch + 1), (major, minor + 10, 0), (major + 1, 0, 0)):
        assert why_firmware_refused(model, ".".join(map(str, later))) is None
    for older in ((major, minor, patch - 1), (major, minor - 1, 99), (major - 1, 99, 99)):
        assert "needs at least" in (why_firmware_refused(model, ".".join(map(str, older))) or "")


# The command


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Iterator[str]:
    """A place that publishes a folder; the maker's own is not asked in tests."""
    root = write(tmp_path / "site")

    class Published(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = root / self.path.removeprefix("/")
            self.send_response(200 if path.is_file() else 404)
            self.end_headers()
            if path.is_file():
                self.wfile.write(path.read_bytes())

        def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Published) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_fetch_keeps_what_is_published_and_check_says_what_each_token_lacks(
    tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = tmp_path / "chains.toml"
    tokens = [
        {"symbol": "BNB", "address": "native", "decimals": 18},
        {"symbol": "USDT", "address": USDT_BSC, "decimals": 18},
    ]
    rows = ", ".join(
        "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in token.items()) + " }" for token in tokens
    )
    chains.write_text(
        f'[[chains]]\nid = 56\nname = "bsc"\ngenesis_hash = "0x{"56" * 32}"\n'
        'rpc_urls = ["https://a.example.com", "https://b.example.org"]\n'
        f'treasury = "{TREASURY_BSC}"\nfee_proxy = "0x52908400098527886E0F7030069857D2E4169EE7"\ntokens = [{rows}]\n'
    )
    monkeypatch.setenv("CHAINS_FILE", str(chains))
    monkeypatch.setattr("custody.trezor.definitions.maker_keys", lambda: KEYS)
    settings.cache_clear()
    folder = tmp_path / "folder"
    runner = CliRunner(env={"COLUMNS": "200"})
    empty = runner.invoke(signer, ["definitions", "check", str(folder)])
    assert empty.exit_code == EXIT_REFUSED
    assert "fleet signer definitions fetch" in empty.output
    fetched = runner.invoke(signer, ["definitions", "fetch", str(folder), "--from", site])
    assert fetched.exit_code == 0, fetched.output
    assert (folder / token_path(56, USDT_BSC)).read_bytes() == TOKEN
    assert "bsc USDT: signed by the maker, says what is pinned" in fetched.output
    (folder / token_path(56, USDT_BSC)).write_bytes(TOKEN[:-1])
    broken = runner.invoke(signer, ["definitions", "check", str(folder)])
    assert broken.exit_code == EXIT_REFUSED
    assert "bsc BNB: signed by the maker" in broken.output
    away = runner.invoke(signer, ["definitions", "fetch", str(folder), "--from", "http://127.0.0.1:9"])
    assert away.exit_code == EXIT_REFUSED
    assert "does not answer" in away.output
    settings.cache_clear()
