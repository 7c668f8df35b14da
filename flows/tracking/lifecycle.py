"""From candidate to champion and back: who holds the aliases of a registered model, and why.

A decision is stored on its version, then in the history, and carried out last: the alias `champion` moves by one write
after everything else that explains it. A process that dies in between leaves an entry that is not marked as done; the
next one carries it out before it does anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from mlflow.tracking import MlflowClient

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.safe_text import markdown
from distillery.flows.tracking import history, lock, provenance, registry
from distillery.flows.tracking.history import BY_HAND, PROMOTED, REJECTED, ROLLED_BACK, Entry
from distillery.flows.tracking.registry import CHAMPION, PREVIOUS
from distillery.stages.promotion.decision import Decision
from distillery.stages.promotion.gates import Verdict

DECISION, STANDING, DONE = "decision", "standing", "history.done"
DESCRIPTION = 5000  # characters, as for history.LONGEST


@contextmanager
def transaction(client: MlflowClient, places: Places, name: str) -> Iterator[RegistryTransaction]:
    """Alone with the aliases of a registered model; what a dead process left half done is finished first."""
    with lock.held(places, name) as check:
        opened = RegistryTransaction(client, name, check)
        opened.finish_interrupted()
        yield opened


class RegistryTransaction:
    """The aliases and the history of one registered model, while nobody else may change them."""

    def __init__(self, client: MlflowClient, name: str, check: Callable[[], None]) -> None:
        self._client, self.name, self._check = client, name, check
        model = registry.registered(client, name)
        tags, aliases = (model.tags, model.aliases) if model is not None else ({}, {})
        self.entries = history.read(tags)
        self._done = tags.get(DONE)
        self.champion, self.previous = (int(aliases[a]) if a in aliases else None for a in (CHAMPION, PREVIOUS))

    def finish_interrupted(self) -> None:
        """Carries out the last entry if the process that wrote it could not."""
        last = self.entries[-1] if self.entries else None
        if last is None or not last.moves or self._done == last.key:
            return
        version = registry.by_version(self._client, self.name, last.version)
        if version is not None and self.champion in (last.over, last.version):
            self._carry_out(last)
        else:  # moved by other means since then, to a version that this one was not compared with
            self._settle(last)

    def decide(
        self, version: int, rules: str, judge: Callable[[int | None], Decision], flow_run: str | None = None
    ) -> Decision:
        """The decision about a version: the one in force, or a new one, which is carried out.

        Args:
            version: The candidate.
            rules: Fingerprint of what the verdict rests on besides the models; under others it is judged anew.
            judge: The verdict on the candidate, given the version that is the champion.
            flow_run: Id of Prefect's flow run.
        """
        existing = self._in_force(version, rules)
        if existing is not None:
            return existing
        decision = judge(self.champion)
        action = PROMOTED if decision.promoted else REJECTED
        entry = self._entry(action, version, decision.reasons, rules, flow_run)
        self._explain(entry, decision.gates)
        self._write(entry)
        return decision

    def promote(self, version: int, reason: str) -> None:
        """Makes a version the champion by hand, whatever was decided about it."""
        if version != self.champion:
            entry = self._entry(BY_HAND, version, [f"by hand: {reason}"])
            self._explain(entry, self._explained(version)[1].gates)
            self._write(entry)

    def rollback(self, reason: str) -> tuple[int | None, int]:
        """(version that was the champion, version that is it again).

        Raises:
            InputError: There was no champion before, or it was itself rolled back.
        """
        withdrawn, back = self.champion, self.previous
        if back is None or back == withdrawn:
            what = "a champion" if withdrawn is None else f"a champion before version {withdrawn}"
            raise InputError(f"rollback: expected {what} of {self.name!r}, got none")
        last = history.standing(self.entries, back)
        if last is not None and last.action == ROLLED_BACK and last.over == back:
            raise InputError(
                f"rollback: expected a champion before version {withdrawn} that was not rolled back itself, got "
                f"version {back}, withdrawn {last.when} by {last.who}; only promote brings it back"
            )
        self._write(self._entry(ROLLED_BACK, back, [reason] if reason else []))
        return withdrawn, back

    def _in_force(self, version: int, rules: str) -> Decision | None:
        """The decision that still holds; a verdict against another champion than the present one does not.

        What was the champion once is no candidate again while there is another: only a person brings it back.
        """
        last, (number, stored) = history.standing(self.entries, version), self._explained(version)
        if version == self.champion:
            return replace(stored, reasons=stored.reasons if stored.promoted else ["it is the champion"], promoted=True)
        withdrawn = last is not None and last.action == ROLLED_BACK
        if last is not None and last.version != version and (withdrawn or self.champion is not None):
            how = "rolled back to" if withdrawn else "replaced by"
            reasons = [*stored.reasons, f"was the champion, {how} version {last.version} on {last.when[:10]}"]
            return replace(stored, reasons=reasons, promoted=False)
        present = (REJECTED, rules, self.champion, number)
        return stored if last is not None and (last.action, last.rules, last.over, last.number) == present else None

    def _entry(
        self, action: str, version: int, reasons: list[str], rules: str | None = None, flow_run: str | None = None
    ) -> Entry:
        tags = self._tags(version)
        return Entry(
            number=self.entries[-1].number + 1 if self.entries else 1,
            when=provenance.now(),
            who=provenance.who(),
            flow_run=flow_run,
            action=action,
            version=version,
            over=self.champion,
            reasons=reasons,
            rules=rules,
            data=tags.get("data"),
            commit=provenance.commit(),
            test_rows=tags.get("test_rows_content"),
        )

    def _explain(self, entry: Entry, gates: list[Verdict]) -> None:
        """One tag holds the whole decision, so that there is never half of one."""
        decision = json.dumps({**asdict(entry), "gates": [asdict(gate) for gate in gates]}, ensure_ascii=False)
        self._client.set_model_version_tag(self.name, str(entry.version), DECISION, decision)
        title = f"{entry.action.capitalize()} by {entry.who}, {entry.when}"
        text = "\n".join([f"{markdown(title)}:", "", *(f"- {markdown(r)}" for r in entry.reasons)])
        self._client.update_model_version(self.name, str(entry.version), text[:DESCRIPTION])

    def _explained(self, version: int) -> tuple[int | None, Decision]:
        """(number of the entry, decision) stored on a version."""
        tree = json.loads(self._tags(version).get(DECISION, "{}"))
        gates = [Verdict(**gate) for gate in tree.get("gates", [])]
        promoted = tree.get("action", REJECTED) != REJECTED
        return tree.get("number"), Decision(promoted, tree.get("reasons", []), gates)

    def _tags(self, version: int) -> dict[str, str]:
        return dict(self._client.get_model_version(self.name, str(version)).tags)

    def _write(self, entry: Entry) -> None:
        if not entry.moves:
            self._stands(entry.version, "rejected")
        self._check()
        self._client.set_registered_model_tag(self.name, entry.key, history.written(entry))
        self.entries.append(entry)
        if entry.moves:
            self._carry_out(entry)

    def _carry_out(self, entry: Entry) -> None:
        """Moves the aliases, `champion` last; may be done twice."""
        self._stands(entry.version, CHAMPION)
        if entry.over is not None and entry.over != entry.version:
            how = "rolled back to" if entry.action == ROLLED_BACK else "replaced by"
            self._stands(entry.over, f"{how} version {entry.version}")
            self._client.set_registered_model_alias(self.name, PREVIOUS, str(entry.over))
            self.previous = entry.over
        elif self.previous == entry.version:
            self._client.delete_registered_model_alias(self.name, PREVIOUS)
        self._client.set_registered_model_alias(self.name, CHAMPION, str(entry.version))
        self.champion = entry.version
        self._settle(entry)

    def _stands(self, version: int, standing: str) -> None:
        self._client.set_model_version_tag(self.name, str(version), STANDING, standing)

    def _settle(self, entry: Entry) -> None:
        self._client.set_registered_model_tag(self.name, DONE, entry.key)
        self._done = entry.key
