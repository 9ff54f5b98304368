"""`bot4 button --bundle`: the button's program as one file that Python runs, with nothing to install but pins' library.

Only what the program imports goes in; `procs`, whose own start loads compiled code, gets an empty one instead.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FILES = (
    "engine/__init__.py", "engine/settings.py", "shm/__init__.py", "shm/python_clock.py", "procs/identity.py",
    "procs/key_file.py", "procs/button_sender.py", "tools/__init__.py", "tools/usage.py", "tools/button.py",
    "tools/button_options.py",
)
_FOLDERS = ("engine/safety", "procs/gpio")
_MAIN = "import sys\n\nfrom tools.button import main\n\nsys.exit(main())\n"
_STAMP = (1980, 1, 1, 0, 0, 0)  # the same sources give the same file


def write_bundle(path: Path) -> None:
    """Write the file, executable. Raises OSError."""
    content = {name: (_ROOT / name).read_bytes() for name in _FILES}
    for folder in _FOLDERS:
        for file in sorted((_ROOT / folder).glob("*.py")):
            content[f"{folder}/{file.name}"] = file.read_bytes()
    content["procs/__init__.py"] = b'"""Processes."""\n'
    content["__main__.py"] = _MAIN.encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, content[name])
    path.write_bytes(b"#!/usr/bin/env python3\n" + archive.getvalue())
    os.chmod(path, 0o755)
