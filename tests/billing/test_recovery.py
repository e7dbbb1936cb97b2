from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitmesh_proxy.billing.recovery import recover
from bitmesh_proxy.calls import JobStatus
from bitmesh_proxy.context import Caller
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.idempotency import IdempotencyStore
from bitmesh_proxy.storage.instances import census, register_instance
from bitmesh_proxy.storage.jobs import JobStore, NewJob
from bitmesh_proxy.storage.ledger import Accrued, LedgerStore
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import NOON_S, open_database, opening, usd

ROOT = Path(__file__).parents[2]

#: Reserves, delivers, notes and settles as fast as it can, and says which requests it has settled.
SERVE_UNTIL_KILLED = """
import asyncio, itertools, sys
from pathlib import Path
from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.reservation import Books, Outcome
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import Usage
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import InsufficientBalance
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.instances import census, register_instance
from bitmesh_proxy.storage.ledger import Accrued, LedgerStore

path, account_id = sys.argv[1:]
numbers = itertools.count()
caller = Caller(account_id=account_id, key_id="key_1")

async def serve(books):
    while True:
        request_id = f"req_{next(numbers)}"
        context = RequestContext(
            request_id=request_id, address="", public_base_url="", received_at_s=1e9, started_s=0.0
        )
        async with books.reserve(
            context=context, caller=caller, endpoint="chat", model_id="m", hold_nano_usd=NanoUsd(1000), live=True
        ) as reservation:
            books.watch(reservation, lambda: Accrued(cost_nano_usd=NanoUsd(7), charge_nano_usd=NanoUsd(7)))
            await asyncio.sleep(0.002)
            bill = Bill(cost_nano_usd=NanoUsd(10), charge_nano_usd=NanoUsd(10), usage=Usage(input_tokens=1))
            await reservation.settle(Outcome(status=200, outcome="completed", bill=bill))
        print(request_id, flush=True)

async def main():
    database = await Database.open(Path(path), busy_timeout_s=5, max_pending_writes=1000)
    instance = await register_instance(database)
    books = Books(
        LedgerStore(database), settlements=Settlements(), instance=instance.number, markup_nano=10**9
    )
    noting = asyncio.create_task(books.accruals.note_forever(0.001))
    await asyncio.gather(*(serve(books) for _ in range(32)))

asyncio.run(main())
"""


@pytest.fixture
def idempotency(database: Database) -> IdempotencyStore:
    return IdempotencyStore(database, instance=0)


@pytest.fixture
async def patient_database(database: Database, path: Path) -> AsyncIterator[Database]:
    """The same books, for one who waits while somebody else writes without a rest."""
    patient = await open_database(path, busy_timeout_s=30)
    yield patient
    await patient.close()


@pytest.mark.parametrize("settled_at_least", [1, 100])
async def test_killed_in_the_middle_the_books_balance(
    settled_at_least: int, patient_database: Database, path: Path, caller: Caller
) -> None:
    database = patient_database
    ledger, idempotency = LedgerStore(database), IdempotencyStore(database, instance=0)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVE_UNTIL_KILLED,
        str(path),
        caller.account_id,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    said = [(await process.stdout.readline()).decode().strip() for _ in range(settled_at_least)]
    # While it lives, nobody takes its requests from it.
    assert await recover(database, ledger, idempotency) == 0
    process.send_signal(signal.SIGKILL)
    said += (await process.stdout.read()).decode().split("\n")[:-1]
    await process.wait()

    left_open = await ledger.find_open()
    assert await verify_books(database) == []
    assert await recover(database, ledger, idempotency) == len(left_open)
    assert await verify_books(database) == []
    for request_id in filter(None, said):  # what the caller was told had been paid, has been: once
        row = await ledger.request(request_id)
        assert row is not None
        assert (row.state, row.charge_nano_usd) == ("settled", 10)
    for open_row in left_open:
        row = await ledger.request(open_row.request_id)
        assert row is not None
        assert row.outcome == "interrupted"
        assert row.charge_nano_usd == open_row.accrued_charge_nano_usd
    account = await AccountStore(database).get(caller.account_id)
    assert account is not None
    assert account.held_nano_usd == 0
    assert await recover(database, ledger, idempotency) == 0


async def test_job_goes_on_and_its_request_stays_open(
    database: Database, caller: Caller, ledger: LedgerStore, idempotency: IdempotencyStore
) -> None:
    instance = await register_instance(database)
    for name in ("with_job", "without"):
        await ledger.open_reservation(opening(name, caller.account_id, instance=instance.number))
    await ledger.checkpoint({"without": Accrued(cost_nano_usd=NanoUsd(5), charge_nano_usd=NanoUsd(6))})
    await JobStore(database).create(
        NewJob(
            account_id=caller.account_id,
            key_id="key_1",
            request_id="with_job",
            model_id="m",
            provider="p",
            offer_id="p:m",
            provider_job_id="video_1",
            status=JobStatus.QUEUED,
            facts={},
            state={},
            created_at_s=NOON_S,
            next_poll_at_s=NOON_S,
        )
    )
    assert await recover(database, ledger, idempotency) == 0
    os.close(instance._descriptor)  # as the kernel does when a process dies
    assert await recover(database, ledger, idempotency) == 1
    assert [row.request_id for row in await ledger.find_open()] == ["with_job"]
    account = await AccountStore(database).get(caller.account_id)
    assert account is not None
    assert (account.balance_nano_usd, account.held_nano_usd) == (usd(7) - 6, usd(1))
    assert await verify_books(database) == []


async def test_what_an_orderly_stop_left_open_is_found_too(
    database: Database, caller: Caller, ledger: LedgerStore, idempotency: IdempotencyStore
) -> None:
    """Its settlements ran out of time while the database could not be written; its row of instances is gone."""
    instance = await register_instance(database)
    await ledger.open_reservation(opening("req_1", caller.account_id, instance=instance.number))
    await instance.close()
    assert await recover(database, ledger, idempotency) == 1
    assert await ledger.find_open() == []


async def test_who_starts_while_another_recovers_keeps_its_requests(
    database: Database, caller: Caller, ledger: LedgerStore, idempotency: IdempotencyStore
) -> None:
    """Several workers may start at once: one counts who lives, another comes, then the first cleans up."""
    first = await register_instance(database)
    async with census(database) as found:
        second = await register_instance(database)
        await ledger.open_reservation(opening("req_1", caller.account_id, instance=second.number))
        other = IdempotencyStore(database, instance=second.number)
        await other.claim("key_1", "once", fingerprint=bytes(32), request_id="req_1", now_s=NOON_S)
        assert await ledger.resolve_interrupted(alive=found.alive, newest=found.newest) == 0
        assert await idempotency.resolve_interrupted(alive=found.alive, newest=found.newest) == 0
    await second.close()
    assert await recover(database, ledger, idempotency) == 1
    await first.close()
