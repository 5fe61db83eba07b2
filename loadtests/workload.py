"""What each request is: which operation, of which tenant, with which text."""

from __future__ import annotations

from random import Random

from loadtests.calls import Request
from loadtests.content import Text, made_up_documents, made_up_questions, read_texts
from loadtests.options import Options
from loadtests.popularity import Weighted, zipf_weights
from loadtests.tenants import NOBODY, Tenant, documents_of, read_tenants


class Workload:
    """Draws requests. The same seed draws the same ones. Raises ValueError for a file that cannot be used."""

    def __init__(self, options: Options) -> None:
        self.tenants = read_tenants(options.tenants) if options.tenants else (NOBODY,)
        self.documents = (
            read_texts(options.documents) if options.documents else made_up_documents(options.document_count)
        )
        self.questions = (
            read_texts(options.questions)
            if options.questions
            else made_up_questions(options.question_count, len(self.documents))
        )
        self._chance = Random(options.seed)
        self._operation = Weighted(list(options.mix), list(options.mix.values()))
        self._tenant = Weighted(self.tenants, [tenant.weight for tenant in self.tenants])
        # What comes first in a file is not more popular than the rest: ranks are dealt out.
        ranked = Random(options.seed).sample(self.questions, len(self.questions))
        self._question = Weighted(ranked, zipf_weights(len(ranked), options.zipf))
        self._counts = documents_of(self.tenants, len(self.documents))
        self._puts = dict.fromkeys(self._counts, 0)

    def documents_of(self, tenant: Tenant) -> list[Text]:
        """The documents that the tenant's collection holds from the start."""
        return self.documents[: self._counts[tenant.name]]

    def draw(self, phase: int, due: float) -> Request:
        """The next request."""
        operation = self._operation.draw(self._chance)
        tenant = self._tenant.draw(self._chance)
        if operation != "put":
            return Request(operation, tenant, self._question.draw(self._chance).text, phase, due)
        # One document after another anew, so that a long run does not make the collection grow.
        number = self._puts[tenant.name]
        self._puts[tenant.name] += 1
        document = self.documents[number % self._counts[tenant.name]]
        return Request("put", tenant, f"{document.text} Revision {number}.", phase, due, document.id)
