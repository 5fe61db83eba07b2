"""No path of the API shows one tenant another's documents, nor an access group what it may not see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from headwater import Client, Document, DocumentState, HeadwaterError, NotFound, Unauthenticated

from tests.e2e.conftest import QUOTING
from tests.harness.processes import running_stack

pytestmark = pytest.mark.anywhere

KEYS = Path(__file__).parent / "keys.json"
"""The hashes of key-of-red, key-of-blue, key-of-red-hr and key-of-red-law; and of key-of-default, of tenant default."""
QUESTION = "what is the canary word of the report?"


@pytest.fixture(scope="module")
def stack(foreign: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a stack with keys."""
    if foreign:
        yield foreign
        return
    settings = QUOTING | {"HEADWATER_GATEWAY__AUTH": "keys", "HEADWATER_GATEWAY__KEYS_PATH": str(KEYS)}
    with running_stack(tmp_path_factory.mktemp("tenants"), settings=settings) as processes:
        yield processes.stack.address


def client_of(stack: str, key: str) -> Client:
    return Client(stack, api_key=key)


def everything(client: Client, collection: str, document_ids: list[str]) -> str:
    """All that a caller can get out of the API about a collection, as one text."""
    said = [repr(client.list_collections()), repr(client.status())]
    for _ in range(2):  # the second answer comes from the cache
        answer = client.answer(collection, QUESTION)
        said += [answer.text, repr(answer)]
    said.append(repr(client.search(collection, "canary report", k=1000)))
    said.append(repr(client.search(collection, "canary report", k=1)))
    said.append(repr(list(client.list_documents(collection))))
    said.append(repr(client.get_collection(collection)))
    for document_id in document_ids:
        try:
            said.append(repr(client.get_document(collection, document_id)))
        except NotFound as error:
            said.append(str(error).replace(document_id, ""))
    return "\n".join(said)


def test_the_same_document_id_in_two_tenants_stays_apart(stack: str) -> None:
    for colour in ("red", "blue"):
        with client_of(stack, f"key-of-{colour}") as client:
            client.create_collection("reports")
            text = f"The canary word of the report is {colour}canary."
            client.put(
                "reports", [Document("report", text=text, title=f"{colour}title", metadata={"of": f"{colour}meta"})]
            )
            client.answer("reports", QUESTION)
    for colour, other in (("red", "blue"), ("blue", "red")):
        with client_of(stack, f"key-of-{colour}") as client:
            said = everything(client, "reports", ["report"])
            assert f"{colour}canary" in said
            for leak in (f"{other}canary", f"{other}title", f"{other}meta"):
                assert leak not in said
            client.delete("reports", ["report"])
    with client_of(stack, "key-of-blue") as client:
        client.put("reports", [Document("report", text="The canary word of the report is bluecanary.")])
        assert "bluecanary" in client.answer("reports", QUESTION).text


def test_another_tenants_collection_does_not_exist(stack: str) -> None:
    with client_of(stack, "key-of-red") as red:
        red.create_collection("private")
    with client_of(stack, "key-of-blue") as blue:
        for call in (
            lambda: blue.search("private", "canary"),
            lambda: blue.answer("private", QUESTION),
            lambda: blue.get_collection("private"),
            lambda: blue.delete_collection("private"),
            lambda: blue.put("private", [Document("report", text="mine now")]),
            lambda: blue.delete("private", ["report"]),
            lambda: list(blue.list_documents("private")),
            lambda: blue.get_document("private", "report"),
        ):
            with pytest.raises(HeadwaterError) as raised:
                call()
            assert raised.value.code == "NOT_FOUND"
        assert "private" not in [collection.name for collection in blue.list_collections()]


def test_an_access_group_sees_only_what_it_may(stack: str) -> None:
    with client_of(stack, "key-of-red") as client:
        client.create_collection("grouped")
        client.put(
            "grouped",
            [
                Document("open", text="The canary word of the report is opencanary."),
                Document("hr", text="The canary word of the report is hrcanary.", access_groups=["hr"]),
                Document("law", text="The canary word of the report is lawcanary.", access_groups=["law"]),
                Document("both", text="The canary word of the report is bothcanary.", access_groups=["hr", "law"]),
            ],
        )
        token = client.own_writes("grouped")
    may_see = {
        "key-of-red": {"open"},
        "key-of-red-hr": {"open", "hr", "both"},
        "key-of-red-law": {"open", "law", "both"},
    }
    for key, visible in may_see.items():
        with client_of(stack, key) as client:
            client.search("grouped", "canary", after=token)
            said = everything(client, "grouped", ["open", "hr", "law", "both"])
            for name in ("open", "hr", "law", "both"):
                assert (f"{name}canary" in said) == (name in visible), (key, name)
            assert {hit.document_id for hit in client.search("grouped", "canary report", k=3)} <= visible
            assert len(client.search("grouped", "canary report", k=len(visible))) == len(visible)


def test_a_rejected_document_is_shown_to_its_groups_alone(stack: str) -> None:
    with client_of(stack, "key-of-red") as client:
        client.create_collection("rejections")
        for name, groups in (("open", []), ("hr", ["hr"])):
            document = Document(f"{name}canary", body=b"no PDF", content_type="application/pdf", access_groups=groups)
            client.put("rejections", [document])
        token = client.own_writes("rejections")
    for key, visible in (("key-of-red", {"open"}), ("key-of-red-hr", {"open", "hr"}), ("key-of-red-law", {"open"})):
        with client_of(stack, key) as client:
            listed = {status.document_id: status.state for status in client.list_documents("rejections", after=token)}
            assert listed == {f"{name}canary": DocumentState.REJECTED for name in visible}
            said = everything(client, "rejections", ["opencanary", "hrcanary"])
            assert ("hrcanary" in said) == ("hr" in visible)


def test_a_caller_without_a_good_key_gets_nothing(stack: str) -> None:
    for key in ("", "key-of-nobody", "key-of-re", "KEY-OF-RED"):
        with Client(stack, api_key=key) as client:
            with pytest.raises(Unauthenticated) as raised:
                client.search("reports", "canary")
            assert "key" in str(raised.value)


def test_a_tenant_in_the_request_is_not_believed(stack: str) -> None:
    """Metadata that claims a tenant changes nothing: the credential alone decides."""
    from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc

    with grpc.insecure_channel(stack) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        metadata = (("authorization", "Bearer key-of-blue"), ("x-tenant", "red"), ("tenant", "red"))
        listed = stub.ListCollections(gateway_pb2.ListCollectionsRequest(), metadata=metadata, timeout=5)
    assert {collection.tenant for collection in listed.collections} <= {"blue"}


def test_a_write_token_of_another_tenant_opens_nothing(stack: str) -> None:
    with client_of(stack, "key-of-red") as red:
        red.create_collection("tokens")
        token = red.put("tokens", [Document("a", text="The canary word is tokencanary.")]).token
    with client_of(stack, "key-of-blue") as blue:
        blue.create_collection("tokens")
        assert "tokencanary" not in repr(blue.search("tokens", "canary", after=token))
