"""The chains file: a wrong one is refused by the field's name, and its RPC URLs are never shown (R17)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from eth_utils.address import to_checksum_address

from custody.settings.chains import NATIVE, load_chains
from custody.settings.environment import SettingsError

KEY = "s3cr3t-rpc-key"
TREASURY = to_checksum_address("0x" + "1a" * 20)
PROXY = to_checksum_address("0x" + "2b" * 20)
USDC = to_checksum_address("0x" + "3c" * 20)
USDT = to_checksum_address("0x" + "4d" * 20)
GENESIS = "0x" + "ab" * 32


def token(symbol: str = "ETH", address: str = NATIVE, decimals: str = "18", **more: str) -> str:
    fields = {"symbol": f'"{symbol}"', "address": f'"{address}"', "decimals": decimals, **more}
    return "[[chains.tokens]]\n" + "\n".join(f"{name} = {value}" for name, value in fields.items())


def chain(*tokens: str, **changed: str | None) -> str:
    fields: dict[str, str | None] = {
        "id": "31337",
        "name": '"anvil"',
        "genesis_hash": f'"{GENESIS}"',
        "rpc_urls": f'["http://127.0.0.1:8545/{KEY}"]',
        "treasury": f'"{TREASURY}"',
        "fee_proxy": f'"{PROXY}"',
        **changed,
    }
    lines = [f"{name} = {value}" for name, value in fields.items() if value is not None]
    return "\n".join(["[[chains]]", *lines, *(tokens or (token(), token("USDC", USDC, "6"))), ""])


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[str | bytes], str]:
    path = tmp_path / "chains.toml"

    def refuse(content: str | bytes) -> str:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(SettingsError) as caught:
            load_chains(path)
        message = str(caught.value)
        assert KEY not in message
        assert message.startswith(f"CHAINS_FILE {path}")
        return message.removeprefix(f"CHAINS_FILE {path}")

    return refuse


def test_a_good_file_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "chains.toml"
    path.write_text(chain(token(), token("USDC", USDC, "6", treasury_maximum='"2500.5"')))
    chains = load_chains(path)
    only = chains.chain(31337)
    assert (only.treasury, only.fee_proxy, only.is_development) == (TREASURY, PROXY, True)
    usdc = only.token(USDC)
    assert usdc is not None
    assert usdc == only.token_by_symbol("USDC")
    assert (usdc.decimals, str(usdc.treasury_maximum)) == (6, "2500.5")
    assert only.token(USDC.lower()) is None
    with pytest.raises(SettingsError, match=r"chain 56 is not in the chains file \(it has 31337\)"):
        chains.chain(56)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"id": "0"}, "chains.0.id"),
        ({"id": None}, "chains.0.id"),
        ({"id": "true"}, "chains.0.id"),
        ({"id": '"31337"'}, "chains.0.id"),
        ({"name": '"An Anvil"'}, "chains.0.name"),
        ({"genesis_hash": '"0x12"'}, "chains.0.genesis_hash"),
        ({"genesis_hash": f'"{GENESIS.upper()}"'}, "chains.0.genesis_hash"),
        ({"genesis_hash": None}, "chains.0.genesis_hash"),
        ({"rpc_urls": "[]"}, "chains.0.rpc_urls"),
        ({"rpc_urls": f'"http://127.0.0.1/{KEY}"'}, "chains.0.rpc_urls"),
        ({"rpc_urls": f'["127.0.0.1:8545/{KEY}"]'}, "chains.0.rpc_urls.0"),
        ({"rpc_urls": f'["http://ok.example", "ws://{KEY}@host"]'}, "chains.0.rpc_urls.1"),
        ({"rpc_urls": f'["http://[{KEY}"]'}, "chains.0.rpc_urls.0"),
        ({"rpc_urls": f'["http://host:{KEY}/"]'}, "chains.0.rpc_urls.0"),
        ({"treasury": None}, "chains.0.treasury"),
        ({"treasury": '"0x12"'}, "chains.0.treasury"),
        ({"treasury": f'"{TREASURY.lower()}"'}, "chains.0.treasury"),
        ({"treasury": f'"0x{"00" * 20}"'}, "chains.0.treasury"),
        ({"treasury": f'"{TREASURY.swapcase().replace("X", "x")}"'}, "chains.0.treasury"),
        ({"fee_proxy": f'"{PROXY.lower()}"'}, "chains.0.fee_proxy"),
        ({"max_head_age_seconds": "4"}, "chains.0.max_head_age_seconds"),
        ({"rpc_timeout_seconds": "0"}, "chains.0.rpc_timeout_seconds"),
        ({"rpc_timeout_seconds": "nan"}, "chains.0.rpc_timeout_seconds"),
        ({"recipient_filter": '"yes"'}, "chains.0.recipient_filter"),
        ({"recipient_filter_addresses": "0"}, "chains.0.recipient_filter_addresses"),
        ({"recipient_filter_addresses": "10001"}, "chains.0.recipient_filter_addresses"),
        ({"treasure": '"0x"'}, "chains.0.treasure"),
    ],
)
def test_a_wrong_field_is_named(
    refusal: Callable[[str | bytes], str], changed: dict[str, str | None], field: str
) -> None:
    assert refusal(chain(**changed)).startswith(f": {field}: ")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (token("", USDC), "symbol"),
        (token("A" * 13, USDC), "symbol"),
        (token("USDC", USDC.lower(), "6"), "address"),
        (token("USDC", "0x" + "00" * 20, "6"), "address"),
        (token("USDC", "Native", "6"), "address"),
        (token("USDC", USDC, "19"), "decimals"),
        (token("USDC", USDC, "-1"), "decimals"),
        (token("USDC", USDC, "6.0"), "decimals"),
        (token("USDC", USDC, "true"), "decimals"),
        (token("USDC", USDC, "6", treasury_maximum="0"), "treasury_maximum"),
        (token("USDC", USDC, "6", treasury_maximum="10000.1"), "treasury_maximum"),
        (token("USDC", USDC, "6", treasury_maximum="inf"), "treasury_maximum"),
        (token("USDC", USDC, "6", treasury_maximum='"NaN"'), "treasury_maximum"),
        (token("USDC", USDC, "6", minimum="1"), "minimum"),
    ],
)
def test_a_wrong_field_of_a_token_is_named(refusal: Callable[[str | bytes], str], wrong: str, field: str) -> None:
    assert refusal(chain(token(), wrong)).startswith(f": chains.0.tokens.1.{field}: ")


def test_a_wrong_checksum_says_so(refusal: Callable[[str | bytes], str]) -> None:
    one_digit_off = TREASURY[:-1] + ("b" if TREASURY[-1].lower() != "b" else "c")
    assert "EIP-55 checksum" in refusal(chain(treasury=f'"{one_digit_off}"'))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (chain(token(), token("USDC", USDC), token("USDX", USDC)), "two tokens share an address"),
        (chain(token(), token("USDC", USDC), token("USDC", USDT)), "two tokens share a symbol"),
        (chain(token(), token("WETH")), "two tokens share an address"),
        (chain(token("USDC", USDC)), "the chain's own coin is missing"),
        (chain(token(), token("USDC", TREASURY)), "the treasury is a token's or the fee proxy's address"),
        (chain(fee_proxy=f'"{TREASURY}"'), "the treasury is a token's or the fee proxy's address"),
        (chain(id="56") + chain(id="56", name='"bsc"'), "two chains share an id"),
        (chain(id="56") + chain(id="137"), "two chains share a name"),
        (chain() + chain(id="56", name='"bsc"'), "a development chain (1337, 31337) may not"),
        (chain(id="1337", name='"geth"') + chain(), "a development chain (1337, 31337) may not"),
        ("", "chains"),
        ("chains = []", "chains"),
        ("[chain]\nid = 1", "chains"),
        ("[[chains]\nid = 1", "is no TOML"),
        ("[[chains]]\nid = 1\nid = 2\n", "is no TOML"),
        (b"\xff\xfe", "not UTF-8"),
        ("a = " + "[" * 5_000, "is no TOML"),
        ("#" * 1_048_577, "is over 1048576 bytes"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(
    refusal: Callable[[str | bytes], str], content: str | bytes, message: str
) -> None:
    assert message in refusal(content)


def test_chains_with_real_money_may_stand_together(tmp_path: Path) -> None:
    path = tmp_path / "chains.toml"
    two = '["https://a.example/k", "https://b.example.net"]'
    path.write_text(chain(id="56", name='"bsc"', rpc_urls=two) + chain(id="137", name='"polygon"', rpc_urls=two))
    assert [one.id for one in load_chains(path).chains] == [56, 137]


@pytest.mark.parametrize(
    "urls",
    [
        [f"https://bsc.example.com/{KEY}"],
        [f"https://a.example.com/{KEY}", f"https://b.example.com/{KEY}"],
        [f"https://example.com/{KEY}", "https://EXAMPLE.com.:8545", "http://rpc.eu.example.com"],
        ["https://a.example.co.uk", "https://b.example.co.uk"],
        [f"http://10.0.0.1:1/{KEY}", "http://10.0.0.1:2"],
        ["http://[::1]:1", "http://[0:0:0:0:0:0:0:1]:2"],
        ["http://node:1", "http://node:2"],
    ],
)
def test_one_providers_nodes_are_refused_where_money_is_real(
    refusal: Callable[[str | bytes], str], urls: list[str]
) -> None:
    """R17: whatever number of URLs it has."""
    good = chain(id="137", name='"polygon"', rpc_urls='["https://a.example", "https://b.example.net"]')
    said = refusal(good + chain(id="56", name='"bsc"', rpc_urls=str(urls).replace("'", '"')))
    assert said.startswith(": chains.1.rpc_urls: expected URLs at hosts of 2 different domains")
    assert f"got URLs: {len(urls)}, domains: 1." in said


@pytest.mark.parametrize(
    ("chain_id", "urls"),
    [
        ("56", ["https://a.example.com", "https://a.example.net"]),
        ("56", ["https://a.example.co.uk", "https://a.other.co.uk"]),
        ("56", ["http://10.0.0.1", "http://10.0.0.2"]),
        ("56", ["http://10.0.0.1", "http://10.0.0.1:2", "https://a.example.com"]),
        ("31337", ["http://127.0.0.1:1"]),
        ("1337", ["http://127.0.0.1:1", "http://127.0.0.1:2"]),
    ],
)
def test_two_providers_or_a_development_chain_are_taken(tmp_path: Path, chain_id: str, urls: list[str]) -> None:
    path = tmp_path / "chains.toml"
    path.write_text(chain(id=chain_id, rpc_urls=str(urls).replace("'", '"')))
    assert load_chains(path).chain(int(chain_id)).rpc_urls == tuple(urls)


def test_every_wrong_field_is_named_at_once(refusal: Callable[[str | bytes], str]) -> None:
    message = refusal(chain(treasury='"0x12"', genesis_hash='"0x12"'))
    assert "chains.0.treasury" in message
    assert "chains.0.genesis_hash" in message


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="which does not exist"):
        load_chains(tmp_path / "nowhere.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_chains(tmp_path)
