"""What `ULOS_STORAGE_URL` says beside its scheme.

file:///srv/artifacts                   a folder
ftp://  ftps://                         the server of REMOTE_STORAGE_*, which has artifacts in its `/`
sftp://  sftp:///srv/artifacts          the same, or in a folder of it
s3://bucket/folder?region=eu-north-1    a bucket, or a folder of it
"""

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

ELSEWHERE = "host, port and credentials belong into REMOTE_STORAGE_*"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an S3 server."""

    name: str
    folder: str
    """What its keys begin with: empty, or a path that neither begins nor ends with `/`."""
    endpoint: str
    """URL of the server; with the bucket as part of the host name if `virtual`."""
    region: str
    virtual: bool
    """Whether the server tells buckets apart by host name; by the path if not, which all servers understand."""


def check_url(url: str) -> str:
    """Return `url` unchanged.

    Raises:
        ValueError: It is no URL of a storage; the text says how one looks.
    """
    parts = urlsplit(url)
    if parts.scheme in ("ftp", "ftps") and (parts.netloc or parts.path not in ("", "/")):
        raise ValueError(f"{ELSEWHERE}; write ftp:// or ftps:// alone")
    if parts.scheme == "sftp" and parts.netloc:
        raise ValueError(f"{ELSEWHERE}; write sftp:// or sftp:/// and the absolute path of a folder")
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise ValueError("must be file:/// and the absolute path of a folder")
    if parts.scheme == "s3":
        bucket(url)
    if parts.scheme not in ("ftp", "ftps", "sftp", "s3", "file"):
        raise ValueError("must begin with ftp://, ftps://, sftp://, s3:// or file:///")
    return url


def folder(url: str) -> str:
    """The folder that a `file:` or `sftp:` URL names, without a `/` at its end; empty for the uppermost."""
    return unquote(urlsplit(url).path).rstrip("/")


def bucket(url: str) -> Bucket:
    """The bucket that an `s3:` URL names.

    Raises:
        ValueError: It names none, or has options that there are not.
    """
    parts = urlsplit(url)
    name = parts.netloc
    if not name or "@" in name or ":" in name:
        raise ValueError("must be s3:// and a bucket; credentials belong into REMOTE_STORAGE_*")
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = {"region": "us-east-1", "style": "path"}
    for option, value in given:
        if option not in ("endpoint", "region", "style"):
            raise ValueError(f"there is no option {option!r}, only endpoint, region and style")
        options[option] = value
    endpoint = options.get("endpoint", f"https://s3.{options['region']}.amazonaws.com")
    server = urlsplit(endpoint)
    if server.scheme not in ("http", "https") or not server.hostname or "@" in server.netloc:
        raise ValueError("endpoint must be http:// or https:// and a host")
    if options["style"] not in ("path", "virtual"):
        raise ValueError("style must be path or virtual")
    virtual = options["style"] == "virtual"
    if virtual:
        endpoint = server._replace(netloc=f"{name}.{server.netloc}").geturl()
    return Bucket(name, unquote(parts.path).strip("/"), endpoint.rstrip("/"), options["region"], virtual)
