"""Which operations an OpenVINO file holds, read as text: nothing of the file is built, loaded or run.

A file can name an operation that OpenVINO does not have and that an extension would bring, a library with code of its
own. No engine of fptk needs one.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from fptk.core.errors import InputError
from fptk.core.files import open_regular

_STANDARD = re.compile(r"opset\d{1,2}")
"""Operation sets of OpenVINO itself."""


def refuse_custom_operations(path: Path) -> None:
    """Check that every layer of an ``.xml`` file is of one of OpenVINO's own operation sets.

    Raises:
        InputError: one is not, or the file is no XML file that an export writes.
    """
    try:
        with open_regular(path) as handle:
            for _, element in ElementTree.iterparse(handle, events=("start",)):
                version = element.get("version", "")
                if element.tag == "layer" and not _STANDARD.fullmatch(version):
                    name, kind = element.get("name", ""), element.get("type", "")
                    raise InputError(
                        f"{path} has a custom operation: layer {name[:60]!r} is {kind[:60]!r} of {version[:60]!r}, not "
                        "of OpenVINO's operation sets; export the bundle again"
                    )
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two of an unknown encoding
        raise InputError(f"cannot load {path}: it is damaged XML ({error}); export the bundle again") from error
