import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.cluster.documents.manifests import documents
from heliostat.cluster.profile import find
from heliostat.config import differences
from heliostat.difference import ABSENT, KEYS, Change, difference

plain = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b", "2Gi"])
names = st.sampled_from([*KEYS, "value", "spec"])


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.lists(
        st.dictionaries(names, values, max_size=3).map(lambda item: {**item, "name": item.get("name", "a")}), max_size=3
    )
    return st.lists(values, max_size=3) | named | st.dictionaries(names, values, max_size=4)


anything = st.recursive(plain, objects, max_leaves=12)
"""Documents with few words, so that lists of named things with equal and with missing names are frequent."""


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same document with its keys, and the items of its lists of named things, in another order."""
    if isinstance(value, dict):
        return {key: shuffled(part, dice) for key, part in dice.sample(list(value.items()), len(value))}
    if isinstance(value, list):
        inside = [shuffled(part, dice) for part in value]
        named = all(isinstance(part, dict) and not part.keys().isdisjoint(KEYS) for part in value)
        return dice.sample(inside, len(inside)) if named else inside
    return value


@settings(deadline=None)
@given(anything)
def test_equal_documents_have_no_difference(value: Any) -> None:
    assert list(difference(value, copy.deepcopy(value))) == []


@settings(deadline=None)
@given(anything, anything)
def test_no_difference_means_the_same_but_for_the_order_of_named_things(old: Any, new: Any) -> None:
    def unordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: unordered(part) for key, part in value.items()}
        return sorted(map(unordered, value), key=repr) if isinstance(value, list) else value

    if not list(difference(old, new)):
        assert unordered(old) == unordered(new)


@settings(deadline=None)
@given(anything, anything)
def test_the_difference_in_the_other_direction_has_the_values_swapped(old: Any, new: Any) -> None:
    there = {(change.path, repr(change.old), repr(change.new)) for change in difference(old, new)}
    back = {(change.path, repr(change.new), repr(change.old)) for change in difference(new, old)}
    assert there == back


@pytest.mark.parametrize("name", ["gpu", "spot", "research"])
def test_the_order_of_groups_containers_and_variables_is_no_difference(name: str) -> None:
    dice = random.Random(name)
    for document in documents(find(name)):
        other = shuffled(document, dice)
        assert str(other) != str(document)
        assert list(difference(document, other)) == []


POD = {"containers": [{"name": "ray", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x", "y"]}]}


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"max": 4}, {"max": 8}, ["~ max: 4 -> 8"]),
        ({"a": {}}, {"a": {"b": None}}, ["+ a.b: null"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, ["- a.b: 1"]),
        ({"a": 1}, {"a": {"b": 1}}, ['~ a: 1 -> {"b": 1}']),
        (
            {"groups": [{"groupName": "cpu", "maxReplicas": 4}, {"groupName": "gpu", "maxReplicas": 8}]},
            {"groups": [{"groupName": "gpu", "maxReplicas": 2}, {"groupName": "cpu", "maxReplicas": 4}]},
            ["~ groups[gpu].maxReplicas: 8 -> 2"],
        ),
        (
            {"groups": [{"groupName": "cpu"}]},
            {"groups": [{"groupName": "gpu"}]},
            ['- groups[cpu]: {"groupName": "cpu"}', '+ groups[gpu]: {"groupName": "gpu"}'],
        ),
        (
            POD,
            {"containers": [{**POD["containers"][0], "args": ["y", "x"]}]},
            ['~ containers[ray].args: ["x", "y"] -> ["y", "x"]'],
        ),
        ([{"containerPort": 1, "a": 1}], [{"containerPort": 1, "a": 2}], ["~ [1].a: 1 -> 2"]),
        # Two tolerations of one key: only their position identifies them.
        (
            [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}],
            [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoSchedule"}],
            [
                '~ : [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}] -> '
                '[{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoSchedule"}]'
            ],
        ),
        ([{"name": {"not": "a name"}}], [{"name": {"not": "another"}}], None),
        ([], [{"name": "A", "value": "1"}], ['+ [A]: {"name": "A", "value": "1"}']),
        ({"script": "a\nb\nc"}, {"script": "a\nb"}, ["~ script: (3 lines) -> (2 lines)"]),
        ({"x": 1}, {"x": 1, "y": list(range(100))}, [f"+ y: {str(list(range(100)))[:100]}..."]),
    ],
)
def test_each_change_is_a_line_with_its_path(old: Any, new: Any, lines: list[str] | None) -> None:
    changes = [str(change) for change in difference(old, new)]
    assert changes == lines if lines is not None else len(changes) == 1


def test_an_environment_variable_that_is_changed_inside_is_named() -> None:
    new = copy.deepcopy(POD)
    new["containers"][0]["env"] = [{"name": "C", "value": "3"}, {"name": "B", "value": "0"}]
    assert list(difference(POD, new, "spec")) == [
        Change("spec.containers[ray].env[A]", {"name": "A", "value": "1"}, ABSENT),
        Change("spec.containers[ray].env[B].value", "2", "0"),
        Change("spec.containers[ray].env[C]", ABSENT, {"name": "C", "value": "3"}),
    ]


def test_a_config_differs_by_the_order_of_a_list_and_by_keys_that_one_side_lacks() -> None:
    stored = {"optimizer": {"lr": 0.1, "name": "sgd"}, "phases": [{"name": "a"}, {"name": "b"}], "limit": None}
    current = {"optimizer": {"lr": 0.2}, "phases": [{"name": "b"}, {"name": "a"}], "limit": True}
    assert differences(stored, current) == [
        "limit: null there, true now",
        "optimizer.lr: 0.1 there, 0.2 now",
        "optimizer.name: sgd there, absent now",
        'phases: [{"name": "a"}, {"name": "b"}] there, [{"name": "b"}, {"name": "a"}] now',
    ]
