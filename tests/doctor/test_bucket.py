"""The bucket: with every right, and without each of them."""

import pytest
from pydantic import SecretStr

from tests.doctor.conftest import NOBODY, changed
from vidgen.doctor.bucket import bucket
from vidgen.doctor.finding import State
from vidgen.settings import Settings
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.s3.server import Fault


def denied(operation: str, skip: int = 0) -> Fault:
    return Fault(
        action="answer",
        operation=operation,
        status=403,
        code="AccessDenied",
        times=None,
        skip=skip,
    )


async def test_a_bucket_with_every_right_is_well_and_left_as_it_was(
    well: Settings, s3: S3Server
) -> None:
    finding = await bucket(well)

    assert finding.state is State.OK
    assert finding.sentence == "videos: put, get, list, parts, signed address, delete work"
    assert {request.operation for request in s3.requests} == {
        *("PutObject", "GetObject", "DeleteObject", "ListObjectsV2"),
        *("CreateMultipartUpload", "UploadPart", "AbortMultipartUpload"),
    }


async def test_a_right_to_list_is_one_to_the_bucket_itself(well: Settings, s3: S3Server) -> None:
    s3.faults += [denied("ListObjectsV2"), denied("GetObject")]

    finding = await bucket(well)

    assert finding.state is State.PROBLEM
    assert finding.remedy.endswith("on videos/*: s3:GetObject; on videos itself: s3:ListBucket")


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("PutObject", "s3:PutObject"),
        ("GetObject", "s3:GetObject"),
        ("DeleteObject", "s3:DeleteObject"),
        ("AbortMultipartUpload", "s3:AbortMultipartUpload"),
        ("CreateMultipartUpload", "s3:AbortMultipartUpload"),
    ],
)
async def test_a_right_that_is_missing_is_named(
    well: Settings, s3: S3Server, operation: str, right: str
) -> None:
    s3.faults.append(denied(operation))

    finding = await bucket(well)

    assert finding.state is State.PROBLEM
    assert "AccessDenied" in finding.sentence
    assert finding.remedy.endswith(f"on videos/*: {right}")


async def test_an_address_that_is_signed_and_refused_all_the_same_is_a_problem(
    well: Settings, s3: S3Server
) -> None:
    s3.faults.append(denied("GetObject", skip=1))

    finding = await bucket(well)

    assert finding.state is State.PROBLEM
    assert finding.sentence == "A signed address cannot be fetched: it answers 403."


async def test_a_bucket_that_is_missing_is_a_problem(well: Settings) -> None:
    finding = await bucket(changed(well, s3_bucket="other"))

    assert finding.state is State.PROBLEM
    assert "there is no such bucket" in finding.sentence
    assert "S3_BUCKET" in finding.remedy


async def test_a_wrong_secret_is_a_problem(well: Settings) -> None:
    finding = await bucket(changed(well, aws_secret_access_key=SecretStr("another")))

    assert finding.state is State.PROBLEM
    assert "SignatureDoesNotMatch" in finding.sentence
    assert finding.remedy.startswith("correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")


async def test_a_server_that_is_away_is_a_problem(well: Settings) -> None:
    finding = await bucket(changed(well, s3_endpoint_url=f"http://{NOBODY}"))

    assert finding.state is State.PROBLEM
    assert "S3_ENDPOINT_URL" in finding.remedy


async def test_a_public_address_that_gives_nothing_is_a_warning(
    well: Settings, s3: S3Server
) -> None:
    closed = changed(well, s3_public_url=f"{s3.url}/videos")
    nowhere = changed(well, s3_public_url=f"http://{NOBODY}")

    for settings, words in ((closed, "it answers 403"), (nowhere, "no answer")):
        finding = await bucket(settings)

        assert finding.state is State.WARNING
        assert words in finding.sentence
        assert "S3_PUBLIC_URL" in finding.remedy
