"""docs/adding_a_model.md, followed to the letter with its own code."""

from __future__ import annotations

import re
import sys

from nivesh_lib.models import base
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "adding_a_model.md").read_text(encoding="utf-8")


def test_the_page_s_model_is_registered_saved_loaded_and_evaluated(tmp_path, monkeypatch):
    code, line = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "majority.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    kind, target = re.fullmatch(r'"(\w+)": "([\w.:]+)",\n', line).groups()
    # On the page the module lies in the library; here it lies in a folder of its own.
    monkeypatch.setitem(base.MODELS, kind, target.replace("nivesh_lib.models.", ""))
    X, y = ["rent", "chai", "sip"], ["spend", "spend", "save"]
    model = base.get_model(kind, smoothing=0.5).fit(X, y)
    loaded = base.load_model(model.save(tmp_path / "model", data="toy@1.0.0"))
    assert loaded.predict([""]).tolist() == ["spend"]
    assert (loaded.predict_proba(X) == model.predict_proba(X)).all()
    sys.modules.pop("majority", None)
