"""Puts the documents that are asked about, before the load begins."""

from __future__ import annotations

from headwater import Client, Document

from loadtests.options import Options
from loadtests.workload import Workload

_LOAD_SECONDS = 120.0


def load(options: Options) -> int:
    """Create each tenant's collection, put its documents, wait until they are searchable; how many there are.

    A document that is there already, unchanged, costs nothing. Raises HeadwaterError.
    """
    workload = Workload(options)
    count = 0
    for tenant in workload.tenants:
        with Client(options.address, api_key=tenant.key, insecure=True, timeout=_LOAD_SECONDS) as client:
            client.create_collection(tenant.collection, exist_ok=True)
            documents = [Document(text.id, text=text.text) for text in workload.documents_of(tenant)]
            client.put(tenant.collection, documents)
            client.search(tenant.collection, workload.questions[0].text, k=1)  # sees what was put, or waits for it
            count += len(documents)
    return count
