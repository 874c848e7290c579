"""Knowledge bases: the same facts from every form, every ambiguity refused at its row, and the file untouched."""

from __future__ import annotations

import csv
import json
import pickle
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.knowledge_base import KnowledgeBase, build_knowledge_base, load_knowledge_base

ROWS: list[dict[str, Any]] = [
    {"entity": "United Kingdom", "attribute": "capital", "value": "London", "entity_aliases": "UK|Britain"},
    {"entity": "France", "attribute": "capital", "value": "Paris", "attribute_aliases": "capital city"},
    {"entity": "France", "attribute": "population", "value": "68.4 million", "type": "number", "tolerance": "1%"},
    {"entity": "Andorra", "attribute": "neighbour", "value": "France", "multiple": "true"},
    {"entity": "Andorra", "attribute": "neighbour", "value": "Spain", "value_aliases": "Kingdom of Spain"},
]


def save(rows: list[dict[str, Any]], path: Path) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(f"CREATE TABLE facts ({', '.join(names)})")
            marks = ", ".join("?" for _ in names)
            connection.executemany(f"INSERT INTO facts VALUES ({marks})", [[row.get(n) for n in names] for row in rows])
        connection.close()
    return path


@pytest.mark.parametrize("name", ["kb.csv", "kb.json", "kb.jsonl", "kb.db", "kb.sqlite3"])
def test_every_form_of_file_holds_the_same_facts(name: str, tmp_path: Path) -> None:
    base = load_knowledge_base(save(ROWS, tmp_path / name))
    assert base.find_entity("the UK") == base.find_entity("united kingdom") == "united kingdom"
    assert base.find_attribute("Capital City") == "capital"
    assert base.find_values("andorra", "neighbour") == ["France", "Spain"]
    assert base.judge("france", "population", "68,500,000")[0] == "supported"
    assert base.judge("andorra", "neighbour", "kingdom of spain")[0] == "supported"


def test_declarations_and_aliases_may_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    tables = {
        "facts": [{"entity": "Eiffel Tower", "attribute": "height", "value": 330}],
        "attributes": [{"attribute": "height", "type": "number", "unit": "m", "tolerance": 2}],
        "aliases": [
            {"kind": "entity", "name": "La dame de fer", "alias": "Iron Lady"},
            {"kind": "entity", "name": "Eiffel Tower", "alias": "La dame de fer"},
        ],
    }
    (tmp_path / "kb.json").write_text(json.dumps(tables))
    with sqlite3.connect(tmp_path / "kb.db") as connection:
        for name, rows in tables.items():
            connection.execute(f"CREATE TABLE {name} ({', '.join(rows[0])})")
            for row in rows:
                connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", list(row.values()))
    connection.close()
    for file in ("kb.json", "kb.db"):
        base = load_knowledge_base(tmp_path / file)
        tower = base.find_entity("iron lady")
        assert tower == "eiffel tower"
        assert base.judge(tower, "height", "0.331 km")[0] == "supported"
        assert base.judge(tower, "height", "333 m")[0] == "contradicted"
        assert base.judge(tower, "height", "330 kg")[0] == "contradicted"


def test_sqlite_is_opened_read_only_and_its_folder_stays_as_it_was(tmp_path: Path) -> None:
    path = save(ROWS, tmp_path / "kb.db")
    before, status = path.read_bytes(), path.stat()
    tmp_path.chmod(0o555)
    try:
        load_knowledge_base(path)
        assert [file.name for file in tmp_path.iterdir()] == ["kb.db"]
    finally:
        tmp_path.chmod(0o755)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, status.st_mtime_ns)


def refused(rows: list[dict[str, Any]], **tables: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        build_knowledge_base(rows, place="kb", **tables)
    assert caught.value.cure
    return caught.value


def fact(entity: Any = "France", attribute: Any = "capital", value: Any = "Paris", **more: Any) -> dict[str, Any]:
    return {"entity": entity, "attribute": attribute, "value": value, **more}


@pytest.mark.parametrize(
    ("rows", "place", "words"),
    [
        ([fact(), fact("france", "currency", "euro")], "kb:facts:2", "differ in case"),
        ([fact(), fact()], "kb:facts:2", "kb:facts:1 too"),
        ([fact(), fact(value="Lyon")], "kb:facts:2", "'Paris' at kb:facts:1"),
        ([fact(value="7", multiple=True), fact(value="seven")], "kb:facts:2", "too"),
        ([fact(entity_aliases="France")], "kb:facts:1", "is the name"),
        ([fact(entity_aliases="Gaul|gaul")], "kb:facts:1", "twice"),
        ([fact(entity_aliases="Gaul"), fact("Italy", value="Rome", entity_aliases="Gaul")], "kb:facts:2", "stands for"),
        ([fact(entity_aliases="Italy"), fact("Italy", value="Rome")], "kb:facts:1", "of its own"),
        ([fact(value_aliases="Lutetia"), fact("X", value="Lutetia", value_aliases="Paris")], "kb:facts:1", "circle"),
        ([fact(value="")], "kb:facts:1", "'value' is ''"),
        ([fact(value=None)], "kb:facts:1", "'value' is None"),
        ([fact(value=True)], "kb:facts:1", "True"),
        ([{"entity": "France", "value": "Paris"}], "kb:facts:1", "no column 'attribute'"),
        ([{"entity": "France", "atribute": "capital", "value": "Paris"}], "kb:facts:1", "no column 'attribute'"),
        ([fact(entity_alias="Gaul")], "kb:facts:1", "'entity_alias' in 'facts' is unknown"),
        ([fact(type="nunber")], "kb:facts:1", "nunber"),
        ([fact(type="number")], "kb:facts:1", "'Paris' is no number"),
        ([fact(type="date", value="05/06/2017")], "kb:facts:1", "is no date"),
        ([fact(type="number", value="3", unit="furlongs")], "kb:facts:1", "furlongs"),
        ([fact(type="text", unit="m")], "kb:facts:1", "unit"),
        ([fact(tolerance="much")], "kb:facts:1", "much"),
        ([fact(multiple="maybe")], "kb:facts:1", "maybe"),
        ([fact(multiple=True), fact("Italy", value="Rome", multiple=False)], "kb:facts:2", "True at kb:facts:1"),
        ([fact(patterns=["{value} is it"])], "kb:facts:1", "patterns"),
        (["France"], "kb:facts:1", "is str"),
        ([], "kb", "no facts"),
    ],
)  # fmt: skip
def test_what_would_make_an_answer_depend_on_chance_is_refused_at_its_row(rows: Any, place: str, words: str) -> None:
    error = refused(rows)
    assert error.place == place
    assert words in error.found


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ([("entity", "France", "A"), ("entity", "France", "A")], "too"),
        ([("entity", "France", "A"), ("entity", "Italy", "A")], "stands for"),
        ([("entity", "B", "A"), ("entity", "A", "B")], "circle: "),
        ([("entity", "Nowhere", "A")], "no fact"),
        ([("entities", "France", "A")], "'kind' is"),
        ([("attribute", "capital", "Capital")], "is the name"),
    ],
)
def test_aliases_that_repeat_clash_circle_or_end_nowhere_are_refused(aliases: Any, words: str) -> None:
    rows = [dict(zip(("kind", "name", "alias"), cells, strict=True)) for cells in aliases]
    error = refused([fact(), fact("Italy", value="Rome")], aliases=rows)
    assert words in error.found
    assert error.place.startswith("kb:aliases:")


@pytest.mark.parametrize(
    ("name", "content", "place", "words"),
    [
        ("kb.csv", b"", "kb.csv:1", "no column 'entity'"),
        ("kb.csv", b"entity,attribute\nFrance,capital\n", "kb.csv:1", "no column 'value'"),
        ("kb.csv", b"entity,attribute,value\nFrance,capital\n", "kb.csv:2", "2 cells"),
        ("kb.csv", b'entity,attribute,value\nFrance,capital,"Par\n', "kb.csv:2", "broken"),
        ("kb.csv", b"entity,attribute,value\nFr\xe9,capital,Paris\n", "kb.csv", "UTF-8"),
        ("kb.csv", b"entity,attribute,value,value\nF,c,P,P\n", "kb.csv:1", "one name"),
        ("kb.csv", b"entity,attribute,value\n", "kb.csv", "no facts"),
        ("kb.json", b'[{"entity": "F",\n', "kb.json:2", "broken"),
        ("kb.json", b'{"fact": []}', "kb.json", "no list of facts"),
        ("kb.json", b'{"facts": [], "extra": []}', "kb.json", "extra"),
        ("kb.json", b'[{"entity": "F", "entity": "G", "attribute": "a", "value": "v"}]', "kb.json", "twice"),
        ("kb.json", b'[{"entity": "F", "attribute": "a", "value": NaN}]', "kb.json", "NaN"),
        ("kb.json", b"[" * 100_000, "kb.json", "broken"),
        ("kb.jsonl", b'{"entity": "F", "attribute": "a", "value": "v"}\n{"entity"\n', "kb.jsonl:2", "broken"),
        ("kb.db", b"not a database at all, but long enough to look at" * 20, "kb.db", "cannot be read"),
        ("kb.db", b"", "kb.db", "no table 'facts'"),
        ("kb.txt", b"", "kb.txt", "ending"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(
    name: str, content: bytes, place: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_knowledge_base(tmp_path / name)
    assert caught.value.place == str(tmp_path / place)
    assert words in caught.value.found and caught.value.cure


def test_a_missing_file_is_refused_and_a_missing_database_is_not_made(tmp_path: Path) -> None:
    for name in ("kb.csv", "kb.db", "kb.json"):
        with pytest.raises(DataError, match="cannot be opened"):
            load_knowledge_base(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_view_in_place_of_a_table_is_refused_since_it_would_run_the_files_own_query(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "kb.db") as connection:
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
        connection.execute(f"CREATE VIEW facts AS SELECT x AS entity, x AS attribute, x AS value FROM ({endless})")
    connection.close()
    with pytest.raises(DataError, match="view"):
        load_knowledge_base(tmp_path / "kb.db")


def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    path = save([fact(f"E{number}") for number in range(2000)], tmp_path / "kb.db")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be read"):
        load_knowledge_base(path)


def base_of(*rows: dict[str, Any], **tables: Any) -> KnowledgeBase:
    return build_knowledge_base(rows, **tables)


def test_one_value_is_all_there_is_and_several_are_so_only_where_declared_complete() -> None:
    one = base_of(fact())
    assert one.judge("france", "capital", "Lyon")[0] == "contradicted"
    assert one.judge("france", "capital", "Parisville")[0] == "contradicted"
    several = base_of(fact("A", "n", "France", multiple=True), fact("A", "n", "Spain"))
    assert several.judge("a", "n", "Portugal")[0] == "unknown"
    complete = base_of(fact("A", "n", "France", multiple=True, complete=True), fact("A", "n", "Spain"))
    assert complete.judge("a", "n", "Portugal")[0] == "contradicted"
    assert [complete.judge("a", "n", value)[0] for value in ("france", "Spain")] == ["supported"] * 2


def test_a_date_that_says_less_is_supported_and_one_that_says_more_is_unknown() -> None:
    base = base_of(fact("A", "born", "18 December 1949", type="date"), fact("B", "born", "1949"))
    verdicts = [
        base.judge("a", "born", text)[0] for text in ("1949", "December 1949", "1949-12-18", "1950", "May 1949")
    ]
    assert verdicts == ["supported", "supported", "supported", "contradicted", "contradicted"]
    assert base.judge("b", "born", "18 December 1949")[0] == "unknown"
    assert base.judge("a", "born", "in winter")[0] == "unknown"


def test_an_entitys_other_names_name_it_as_a_value_too() -> None:
    base = base_of(
        fact("United States", "capital", "Washington", entity_aliases="US|USA"), fact("Ohio", "country", "US")
    )
    for text in ("USA", "the United States", "us"):
        assert base.judge("ohio", "country", text)[0] == "supported"


def test_a_knowledge_base_travels_between_processes() -> None:
    base = base_of(*ROWS)
    assert pickle.loads(pickle.dumps(base)).facts.keys() == base.facts.keys()


@pytest.mark.parametrize("name", ["kb.csv", "kb.jsonl", "kb.db"])
def test_a_hundred_thousand_rows_are_loaded_and_a_name_is_found_without_looking_at_the_others(
    name: str, tmp_path: Path
) -> None:
    rows = [fact(f"Entity {n}", "serial number", f"SN-{n}") for n in range(100_000)]
    start = time.process_time()
    base = load_knowledge_base(save(rows, tmp_path / name))
    print(f"{name}: saved and loaded in {time.process_time() - start:.2f} s of CPU time")
    assert len(base.facts) == 100_000
    compared = 0

    class Counting(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    assert base.facts[Counting("entity 77777"), Counting("serial number")].texts == ["SN-77777"]
    assert compared < 50
