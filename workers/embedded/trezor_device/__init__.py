"""A software Trezor for the demo and the tests: it speaks the real wire protocol, so the real library runs.

It is never part of the production image (the `embedded` extra only) and listens on loopback alone (R17).
"""

from workers.embedded.trezor_device.faults import Fault, Press
from workers.embedded.trezor_device.identity import Model
from workers.embedded.trezor_device.seed_file import create_seed_file, read_secret_file
from workers.embedded.trezor_device.server import SoftwareDevice

__all__ = ["Fault", "Model", "Press", "SoftwareDevice", "create_seed_file", "read_secret_file"]
