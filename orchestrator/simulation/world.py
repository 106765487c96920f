"""The simulated cluster: jobs come, train, fail; devices are lost and come back; the policies decide once a turn."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable

from orchestrator.fair_shares import FairShares
from orchestrator.placement import decide
from orchestrator.rebalancing import give_back
from orchestrator.simulation.history import Conditions, History, Sample
from orchestrator.simulation.sim_worker import SimWorker
from orchestrator.simulation.speed import TOKEN_BUDGET
from orchestrator.simulation.workload import SimJob
from orchestrator.snapshot import Device, PolicySettings, Queue, Snapshot, WaitingJob
from orchestrator.waiting_line import WaitingLine

_FOR_EVER = 1e15


class World:
    """Runs a workload to its end."""

    def __init__(
        self,
        jobs: list[SimJob],
        conditions: Conditions,
        settings: PolicySettings,
        queues: tuple[Queue, ...],
        *,
        sample_seconds: float = 600.0,
        longest_first: bool = True,
    ) -> None:
        """Prepare.

        Args:
            jobs: By arrival; they are changed.
            conditions: Of the cluster.
            settings: Of the policies.
            queues: Weights and quotas.
            sample_seconds: Between two samples of the history.
            longest_first: Tell the policies how long jobs are; without, they take them in the order of submission.
        """
        self.history = History(jobs=jobs)
        self._conditions, self._settings, self._queues = conditions, settings, queues
        self._sample_seconds = sample_seconds
        self._longest_first = longest_first
        self._random = random.Random(conditions.seed)
        self._jobs = {job.id: job for job in jobs}
        self._coming = list(reversed(jobs))
        self._line = WaitingLine()
        self._workers: dict[str, SimWorker] = {}
        self._on_device: dict[str, SimWorker] = {}
        self._free = {
            f"d{number}": Device(id=f"d{number}", kind="cuda", memory_bytes=conditions.memory_bytes, num_cpus=8)
            for number in range(conditions.num_devices)
        }
        self._where: dict[str, SimWorker] = {}
        self._placed_with: dict[str, float] = {}
        """Rows that were left when a job was placed."""
        self._num_devices = conditions.num_devices
        self._num_left = len(jobs)
        self._num_busy = 0
        self._num_started = self._num_placed = 0
        self._shares = FairShares(settings)
        self._ledger = FairShares(PolicySettings(fair_window_seconds=_FOR_EVER))
        self._use: dict[str, float] = dict.fromkeys((queue.name for queue in queues), 0.0)
        self._served = dict(self._use)
        self._now = self._turned = 0.0
        self._wanting: frozenset[str] = frozenset()
        self._events: list[tuple[float, int, str, str, int]] = []
        self._num_events = 0
        self._turn_at: float | None = None
        if conditions.lost_after_seconds is not None:
            for device in self._free:
                self._event(self._random.expovariate(1 / conditions.lost_after_seconds), "lose", device)

    def run(self) -> History:
        """Until every job has ended."""
        self._turn_soon(0.0)
        while self._num_left:
            arrival = self._coming[-1].arrival if self._coming else float("inf")
            if arrival <= (self._events[0][0] if self._events else float("inf")):
                self._pass(arrival)
                self._wait(self._coming.pop())
                continue
            time, _, kind, name, version = heapq.heappop(self._events)
            self._pass(time)
            if kind == "end":
                self._ended(name, version)
            elif kind == "turn":
                if time != self._turn_at:
                    continue  # an earlier one took its place
                self._turn_at = None
                self._turn()
            elif kind == "stopped":
                self._stopped(name, version)
            elif kind == "lose":
                self._lose(name)
            elif kind == "back":
                self._back(name)
        self.history.makespan = self._now
        self._sample()
        return self.history

    def _event(self, time: float, kind: str, name: str, version: int = 0) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (time, self._num_events, kind, name, version))

    def _pass(self, time: float) -> None:
        passed = time - self._now
        if passed > 0:
            for name, devices in self._use.items():
                self._served[name] += devices * passed
            self.history.busy_device_seconds += self._num_busy * passed
            self.history.device_seconds += self._num_devices * passed
            self._now = time

    def _turn_soon(self, delay: float | None = None) -> None:
        at = self._now + (self._conditions.turn_seconds if delay is None else delay)
        if self._turn_at is None or at < self._turn_at:
            self._turn_at = at
            self._event(at, "turn", "")

    def _wait(self, job: SimJob) -> None:
        self._line.add(
            WaitingJob(
                id=job.id,
                base=job.base.key,
                base_shape=job.base.shape,
                demand=job.base.demand(job.rank, job.rows),
                work_tokens=0,
                priority=job.priority,
                sequence=job.sequence,
                queue=job.queue,
                submitted_seconds=job.arrival,
                work_seconds=job.work_seconds if self._longest_first else 0.0,
            )
        )
        self._turn_soon()

    def _changing(self, worker: SimWorker, sign: int) -> None:
        """Take a worker's part in what queues have away before a change, and count it again after."""
        for name, share in worker.use().items():
            self._use[name] += sign * share
        self._num_busy += sign * bool(worker.jobs)

    def _add(self, worker: SimWorker, job: SimJob) -> None:
        self._changing(worker, -1)
        worker.add(job, self._now)
        self._changing(worker, 1)
        self._where[job.id] = worker

    def _remove(self, worker: SimWorker, job_id: str) -> SimJob:
        self._changing(worker, -1)
        job = worker.remove(job_id, self._now)
        self._changing(worker, 1)
        del self._where[job_id]
        job.stopping = False
        return job

    def _foretell(self, worker: SimWorker) -> None:
        following = worker.next_end()
        if following is not None:
            self._event(following[0], "end", worker.id, worker.version)

    def _ended(self, worker_id: str, version: int) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or worker.version != version:
            return
        following = worker.next_end()
        assert following is not None
        job = self._remove(worker, following[1])
        if job.fails_at > 0:
            job.rows_left, job.fails_at = job.fails_at, -1.0
            self.history.num_failures += 1
            self._wait(job)
        else:
            job.rows_left = 0.0
            job.ended = self._now
            self._num_left -= 1
        self._foretell(worker)
        self._turn_soon()

    def _stopped(self, job_id: str, attempt: int) -> None:
        worker = self._where.get(job_id)
        job = self._jobs[job_id]
        if worker is None or not job.stopping or job.num_preemptions != attempt:
            return
        self._wait(self._remove(worker, job_id))
        self._foretell(worker)

    def _lose(self, device_id: str) -> None:
        assert self._conditions.lost_after_seconds is not None
        worker = self._on_device.pop(device_id, None)
        if worker is not None:
            for job_id in list(worker.jobs):
                job = self._jobs[job_id]
                unsaved = (self._now - job.placed) % self._conditions.save_seconds
                lost_rows = unsaved * worker.row_rate(job)
                had = self._remove(worker, job_id)
                # Never more than it has done: it may have waited for its base.
                had.rows_left += min(lost_rows, max(0.0, self._placed_with[job_id] - had.rows_left))
                self._wait(had)
            del self._workers[worker.id]
        self._free.pop(device_id, None)
        self._num_devices -= 1
        self.history.num_lost += 1
        self._event(self._now + self._conditions.away_seconds, "back", device_id)
        self._turn_soon()

    def _back(self, device_id: str) -> None:
        assert self._conditions.lost_after_seconds is not None
        self._free[device_id] = Device(
            id=device_id, kind="cuda", memory_bytes=self._conditions.memory_bytes, num_cpus=8
        )
        self._num_devices += 1
        self._event(self._now + self._random.expovariate(1 / self._conditions.lost_after_seconds), "lose", device_id)
        self._turn_soon()

    def _turn(self) -> None:
        self._settle()
        snapshot = Snapshot(
            workers=tuple(worker.record(self._conditions.save_seconds) for worker in self._workers.values()),
            free_devices=tuple(self._free.values()),
            num_started=self._num_started,
            token_budget=TOKEN_BUDGET,
            queues=self._shares.queues(self._queues),
            now_seconds=self._now,
            num_placed=self._num_placed,
            largest_device_bytes=self._conditions.memory_bytes,
            settings=self._settings,
        )
        decision = decide(snapshot, self._line)
        self.history.num_decisions += 1
        if decision.impossible:
            raise ValueError(f"a job of the workload fits no device: {decision.impossible[0]}")
        for worker in self._workers.values():
            worker.reserved = worker.id in decision.reserved
        idle = give_back(snapshot, decision)
        for retirement in (*decision.retired, *idle):
            worker = self._workers.pop(retirement.worker_id)
            del self._on_device[worker.device.id]
            self._free[worker.device.id] = worker.device
        bases = {job.base.key: job.base for job in (self._jobs[one.job_id] for one in decision.placements)}
        for new in decision.new_workers:
            del self._free[new.device.id]
            ready = self._now + self._conditions.start_seconds
            worker = SimWorker(new.id, new.device, bases[new.base], self._now, ready)
            self._workers[new.id] = self._on_device[new.device.id] = worker
        self._num_started += len(decision.new_workers)
        self._num_placed += len(decision.placements)
        touched: dict[str, SimWorker] = {}
        for placement in decision.placements:
            job = self._jobs[placement.job_id]
            self._line.remove(job.id)
            job.placed = self._now
            job.first_placed = self._now if job.first_placed is None else job.first_placed
            self._placed_with[job.id] = job.rows_left
            worker = touched[placement.worker_id] = self._workers[placement.worker_id]
            self._add(worker, job)
        for preemption in decision.preemptions:
            for victim in preemption.victims:
                self._jobs[victim].num_preemptions += 1
                self._where[victim].mark_stopping(victim, self._now)
                self.history.num_preemptions += 1
                stopped = self._now + self._conditions.stop_seconds
                self._event(stopped, "stopped", victim, self._jobs[victim].num_preemptions)
        for worker in touched.values():
            self._foretell(worker)
        self._wanting = self._hungry(decision.at_quota)
        if self._now >= (self.history.samples[-1].seconds if self.history.samples else -1e9) + self._sample_seconds:
            self._sample()
        if decision.retired or decision.preemptions:
            self._turn_soon()
        elif len(self._line) or any(not worker.jobs for worker in self._workers.values()):
            # Age, and workers that stay idle, are seen to even if nothing happens.
            self._turn_soon(300.0)

    def _hungry(self, at_quota: Iterable[str]) -> frozenset[str]:
        return frozenset(self._line.heads) - frozenset(at_quota)

    def _settle(self) -> None:
        """Enter into the books what queues had since the last turn."""
        passed = self._now - self._turned
        if passed > 0:
            devices = {name: served / passed for name, served in self._served.items()}
            for books in (self._shares, self._ledger):
                books.advance(passed, devices, self._wanting, self._queues)
            self._served = dict.fromkeys(self._served, 0.0)
            self._turned = self._now

    def _sample(self) -> None:
        self._settle()
        known = self._ledger.queues(self._queues)
        self.history.samples.append(
            Sample(
                seconds=self._now,
                served={queue.name: queue.served_seconds for queue in known},
                fair={queue.name: queue.fair_seconds for queue in known},
                wanting=self._wanting,
            )
        )
        busy = self._num_busy / self._num_devices if self._num_devices else 0.0
        self.history.busy_over_time.append((self._now, busy, len(self._line)))
