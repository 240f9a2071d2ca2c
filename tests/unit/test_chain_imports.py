"""Workers that only read decoded facts must not pay for web3 at start."""

import subprocess
import sys


def test_importing_the_chain_room_imports_no_web3():
    script = (
        "import sys, custody.chain, custody.chain.node_errors, custody.chain.erc20;"
        "heavy = {'web3', 'requests', 'aiohttp'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "custody.chain.ChainClient(custody.chain.ChainConnection(1, 'http://127.0.0.1:1'));"
        "assert 'web3' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
