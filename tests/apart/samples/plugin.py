"""For the pytest that is to collect the samples: they are no folder of the project's."""

from tests.apart.combinations import FOLDERS, Combination

FOLDERS["apart/samples"] = [
    Combination("apart/samples", name, {"SAMPLE": name}, [], lambda request: {}) for name in ("one", "two")
]
