"""Changes of a photo, settings and devices in, the many ways to ask for each out, with the fields they decide."""

from collections.abc import Iterator, Mapping

from sdk.build.curriculum.wording import entries, sections

__all__ = ["HOME", "PHOTOS", "SETTINGS"]

Asked = tuple[str, Mapping[str, str]]
LISTED = sections("home")
DEVICES = ("{device:light}", "{device:device}")


def _photos() -> Iterator[Asked]:
    for way in ("compared", "verb", "graded verb", "noun", "look"):
        for change, says in entries("home", f"photo {way}"):
            for template in LISTED[f"photo {way} asked"]:
                yield template.replace("<says>", says), {"change": change}


def _settings() -> Iterator[Asked]:
    for way, steps in (("switched", ("on", "off")), ("stepped", ("up", "down"))):
        for setting, says in entries("home", f"setting {way}"):
            for template in LISTED[f"setting {way} asked"]:
                for to in steps:
                    yield template.replace("<says>", says).replace("<to>", to), {"setting": setting, "to": to}
    for setting, says in entries("home", "setting leveled"):
        for template in LISTED["setting leveled asked"]:
            yield template.replace("<says>", says), {"setting": setting}


def _home() -> Iterator[Asked]:
    for template in LISTED["home switched"]:
        for device in DEVICES:
            for to in ("on", "off"):
                yield template.replace("<device>", device).replace("<to>", to), {"to": to}
    for template in LISTED["home covers"]:
        for to in ("open", "close"):
            yield template.replace("<to>", to), {"to": to}
    yield from ((template, {}) for template in LISTED["home set"])


PHOTOS, SETTINGS, HOME = tuple(_photos()), tuple(_settings()), tuple(_home())
"""For editing photos, for settings of the device, for things at home: templates with the fields that they decide."""
