"""An exported ledger in, a verdict out: everything recomputed from the text alone, by Google's dp-accounting.

This path shares no accounting with the ledger: it reads the text, follows the hashes, and composes the events again
with a library that others maintain. Checks, in this order:

    (1) the text is an export of a known format, of bounded size, without surprises in its JSON;
    (2) every entry hashes to what it says and names the entry before it, to the head; time never runs backwards;
    (3) with the device key, every entry carries this device's seal;
    (4) reservations have a budget for their unit and relation; nobody drew more than was reserved or after closing;
    (5) no admitted run passed its limit at the Renyi order that was fixed before its records were read;
    (6) the epsilon of each block, of the worst block, and of all runs together are what the entries give, within 1e-6;
    (7) the PLD figure is what the entries give, within 1 %, and not above the RDP figure.
"""

from privacy.verify.text import MAX_EXPORT_BYTES
from privacy.verify.verdict import Verdict, verify_export, verify_file

__all__ = ["MAX_EXPORT_BYTES", "Verdict", "verify_export", "verify_file"]
