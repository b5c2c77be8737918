"""The ledger's tables as SQL, one step a version.

Rules:
    1. A step only adds. No step reads, changes or drops what an earlier version wrote, so no upgrade can refund.
    2. Views are for people (sqlite-utils, Datasette); nothing reads them back.
"""

from __future__ import annotations

__all__ = ["SCHEMA"]

SCHEMA: tuple[tuple[str, ...], ...] = (
    (  # Version 1: the truth.
        """create table entries (
            seq integer primary key, at text not null, kind text not null, scope text not null, caller text not null,
            receipt text not null, body text not null, previous text not null, hash text not null, mac text not null
        )""",
        """create table head (
            id integer primary key check (id = 1), seq integer not null, hash text not null, mac text not null
        )""",
        """create trigger entries_are_never_changed before update on entries
            begin select raise(abort, 'the ledger is append-only'); end""",
        """create trigger entries_are_never_deleted before delete on entries
            begin select raise(abort, 'the ledger is append-only'); end""",
        """create trigger entries_follow_each_other before insert on entries
            when new.seq is not (select coalesce(max(seq), 0) + 1 from entries)
            begin select raise(abort, 'the ledger is append-only'); end""",
        """create trigger head_only_moves_forward before update on head when new.seq <= old.seq
            begin select raise(abort, 'the ledger is append-only'); end""",
        """create trigger head_is_never_deleted before delete on head
            begin select raise(abort, 'the ledger is append-only'); end""",
    ),
    (  # Version 2: views for sqlite-utils and Datasette; derived, never read back.
        """create view runs as select seq, at, scope, caller, receipt, json_extract(body, '$.run.event') as mechanism,
            coalesce(json_extract(body, '$.run.noise_multiplier'), json_extract(body, '$.run.scale')) as noise,
            json_extract(body, '$.run.sampling_rate') as sampling_rate,
            coalesce(json_extract(body, '$.run.steps'), json_extract(body, '$.run.count')) as uses,
            json_array_length(body, '$.blocks') as blocks, json_extract(body, '$.alone.epsilon') as epsilon_alone,
            (select json_extract(closed.body, '$.outcome') from entries closed
                where closed.receipt = entries.receipt and closed.kind = 'close') as outcome
            from entries where kind = 'reserve'""",
        """create view charges as select entries.seq, entries.at, entries.scope, entries.caller, entries.receipt,
            block.value as block, json_extract(entries.body, '$.alone.epsilon') as epsilon_alone
            from entries, json_each(entries.body, '$.blocks') as block where entries.kind = 'reserve'""",
        "create index entries_by_receipt on entries (receipt)",
    ),
)
