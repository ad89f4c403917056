"""A server of S3's protocol on this machine, for tests of studies in an object store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class ObjectStore:
    """A bucket of the server; processes need `environment` to reach it."""

    bucket: str
    environment: dict[str, str]

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/prefix"

    def names(self) -> list[str]:
        """The keys of all objects that are not empty, below the prefix."""
        found = self.client().list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return [entry["Key"].removeprefix("prefix/") for entry in found if entry["Size"]]

    def read(self, key: str) -> bytes:
        """The content of an object."""
        found = self.client().get_object(Bucket=self.bucket, Key=f"prefix/{key}")
        content: bytes = found["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        """Replaces an object."""
        self.client().put_object(Bucket=self.bucket, Key=f"prefix/{key}", Body=content)

    def delete_matching(self, words: str) -> None:
        """Deletes all objects with these words in their keys."""
        for key in self.names():
            if words in key:
                self.client().delete_object(Bucket=self.bucket, Key=f"prefix/{key}")

    def client(self) -> "boto3.client":
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """A new bucket, on a server of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        store = ObjectStore(f"bucket-{uuid.uuid4().hex[:12]}", environment)
        store.client().create_bucket(Bucket=store.bucket)
        yield store
    finally:
        server.stop()
