"""One encoder: PaddleX's fastest configuration, and galleries at both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from shitu_bench.load.measurements import available_cores
from shitu_bench.peers.agreement import Agreement
from shitu_bench.peers.board import PeersBoard
from shitu_bench.peers.environment import PeerConfiguration, PeerEnvironment, PeerModels
from shitu_bench.peers.galleries import STORED_KEY, GalleryItems, fill_ours, vectors_of, write_theirs
from shitu_bench.peers.paddlex import PeerServer
from shitu_bench.peers.pictures import Pictures
from shitu_bench.peers.rivals import PaddlexRival, ShituRival
from shitu_bench.peers.slices import Rival, SlicePlan, factors_of, measured_rounds, summary_of
from shitu_bench.peers.trials import TrialGround, fastest_of, trial_plan, tried
from shitu_bench.serving.server import BenchServer

OURS: Final = "shitu"
PADDLEX: Final = "paddlex"
"""A request names its gallery by the key, as its API has it; the index is read again for each."""
PADDLEX_AT_START: Final = "paddlex, index at start"
"""The pipeline's yaml names the one gallery; it cannot change while PaddleX runs."""


@dataclass(frozen=True)
class Course:
    """How long things take."""

    slices: SlicePlan
    pairs: int
    trial_s: float
    """Of the load under which each configuration of PaddleX is tried."""


@dataclass
class Contest:
    """What both do with one encoder."""

    environment: PeerEnvironment
    models: PeerModels
    pictures: Pictures
    products: Sequence[tuple[str, bytes]]
    """Label and picture of each."""
    course: Course
    board: PeersBoard
    folder: Path
    """Temporary."""
    seed: int
    configuration: PeerConfiguration = field(default_factory=PeerConfiguration)

    def find_configuration(self) -> dict[str, Any]:
        """Take the fastest with a small gallery, and return what was tried."""
        ground = self._ground("small", lambda server: server.build_index(self.products))
        fastest, trials = tried(ground.trial_of)
        self.configuration = fastest.configuration
        return {"configuration": str(fastest.configuration), "tried": [trial.described() for trial in trials]}

    def measured(self, ours: BenchServer, size: int, end_s: float) -> dict[str, Any]:
        """Return the figures of a gallery.

        Args:
            ours: serves.
            size: of the gallery.
            end_s: time.monotonic() after which no further pair of slices begins.
        """
        items, figures = GalleryItems(self.products, size, self.seed), dict[str, Any]()
        with ExitStack() as stack:
            self.board.say(f"{self.models.encoder}: making the gallery of {size} items at both")
            rivals = self._rivals(ours, items, stack, figures)
            self.board.say(f"{self.models.encoder}: comparing what both find")
            agreements = _agreements(rivals)
            slices = measured_rounds(rivals, self.course.slices, self.course.pairs, end_s, self.board.told)
        return {
            **figures,
            "agreement": {name: one.described() for name, one in agreements.items()},
            "rivals": {name: summary_of(of) for name, of in slices.items()},
            "factors": {name: factors_of(slices[OURS], of) for name, of in slices.items() if name != OURS},
        }

    def _rivals(
        self, ours: BenchServer, items: GalleryItems, stack: ExitStack, figures: dict[str, Any]
    ) -> dict[str, Rival]:
        """Return our server and those of PaddleX, which end with the stack, each with the gallery."""
        if items.are_pictures:
            server = stack.enter_context(self._server(items.name, self.configuration))
            theirs: dict[str, Rival] = {
                PADDLEX: PaddlexRival(server, self.pictures, server.build_index(items.pictures))
            }
            vectors = None
        else:
            vectors = vectors_of(ours.address, items)
            index = write_theirs(self.environment, items, vectors, self._storage(items.name))
            configuration = self._with_index_read_for_each(items, figures)
            by_key = stack.enter_context(self._server(items.name, configuration))
            at_start = stack.enter_context(self._server(f"{items.name}-at-start", self.configuration, index))
            theirs = {
                PADDLEX: PaddlexRival(by_key, self.pictures, STORED_KEY),
                PADDLEX_AT_START: PaddlexRival(at_start, self.pictures, None),
            }
        return {**theirs, OURS: ShituRival(ours, self.pictures, fill_ours(ours.address, items, vectors))}

    def _with_index_read_for_each(self, items: GalleryItems, figures: dict[str, Any]) -> PeerConfiguration:
        """Return which of one and several processes is faster: the index is read in the event loop, of which each has one."""
        choices = {replace(self.configuration, processes=count) for count in (1, available_cores())}
        ground = self._ground(items.name, lambda _: STORED_KEY)
        trials = [
            ground.trial_of(choice, number)
            for number, choice in enumerate(sorted(choices, key=lambda one: one.processes))
        ]
        fastest = fastest_of(trials).configuration
        figures["paddlex"] = {"configuration": str(fastest), "tried": [trial.described() for trial in trials]}
        return fastest

    def _ground(self, name: str, index_key: Callable[[PeerServer], str]) -> TrialGround:
        plan = trial_plan(self.course.trial_s, self.course.slices.concurrency)
        folder, storage = self.folder / f"{name}-trials", self._storage(name)
        return TrialGround(
            self.environment, self.models, self.pictures, index_key, folder, storage, plan, self.board.told
        )

    def _server(self, name: str, configuration: PeerConfiguration, index: Path | None = None) -> PeerServer:
        models = replace(self.models, index=index)
        return PeerServer(self.environment, models, configuration, self.folder / name, self._storage(name))

    def _storage(self, name: str) -> Path:
        return self.folder / f"{name}-indexes"


def _agreements(rivals: Mapping[str, Rival]) -> dict[str, Agreement]:
    """Compare each PaddleX with us, on all pictures."""
    found = {name: rival.findings() for name, rival in rivals.items()}
    agreements = {name: Agreement() for name in rivals if name != OURS}
    for name, agreement in agreements.items():
        for number, (theirs, ours) in enumerate(zip(found[name], found[OURS], strict=True)):
            agreement.add(f"picture {number}", theirs, ours)
    return agreements
