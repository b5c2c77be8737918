"""What a teacher of uncertain terms taught is not shipped by accident."""

import pytest

from sdk.build.teachers.licences import require_shippable
from sdk.errors import LicenceError


@pytest.mark.parametrize("licence", ["apache-2.0", "Apache-2.0", "MIT", " mit ", "CC0-1.0"])
def test_permissive_licences_pass(licence: str) -> None:
    require_shippable(licence)


@pytest.mark.parametrize("licence", ["gemma", "unknown", "", "cc-by-nc-4.0", "cc-by-sa-4.0", "llama3.2", "proprietary"])
def test_others_are_refused_until_they_are_accepted_by_name(licence: str) -> None:
    named = licence or "unknown"
    with pytest.raises(LicenceError, match=f"licence is '{named}'.*--accept-licence {named}"):
        require_shippable(licence)
    with pytest.raises(LicenceError):
        require_shippable(licence, accepted=["something-else", "mit"])
    require_shippable(licence, accepted=[named.upper()])
