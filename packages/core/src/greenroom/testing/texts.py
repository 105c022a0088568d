"""The conformance suite of the text that a model reads. pandas and matplotlib must be in the sandbox."""

from __future__ import annotations

import pytest

from greenroom.sessions import Session
from greenroom.testing.suite import Suite

# The output of an ipywidgets widget without a browser.
_WIDGETS = """
import sys, types
class Widget:
    def __init__(self, *args, **values):
        self.layout = types.SimpleNamespace()
        self.style = types.SimpleNamespace(bar_color=None)
        self.bar_style = self.value = ''
        self.__dict__.update(values)
    def close(self): pass
    def _repr_mimebundle_(self, **_):
        return {'text/plain': repr(self)[:110], 'application/vnd.jupyter.widget-view+json': {'model_id': 'm'}}
sys.modules['ipywidgets'] = types.SimpleNamespace(HTML=Widget, FloatProgress=Widget, HBox=Widget)
"""


class TextSuite(Suite):
    """`Execution.text_for_model()` for code that shows, writes and raises things in a sandbox."""

    def test_rich_outputs_are_text(self, shared: Session) -> None:
        execution = shared.execute(
            "import pandas\n"
            "from IPython.display import HTML, JSON, Latex, Markdown\n"
            "table = pandas.DataFrame({'a\\nerror:': [1.5], 'b': ['x<y']})\n"
            "display(Markdown('**Total**: 42'), JSON({'median': 7}), Latex('$x^2$'))\n"
            "display(table, HTML(table.to_html()))\n"
            "Markdown('the *end*')"
        )
        assert execution.text_for_model() == (
            "result:\nthe *end*\n\n"
            'displayed:\n**Total**: 42\n\n{"median": 7}\n\n$x^2$\n\n'
            "   a\\nerror:    b\n0        1.5  x<y\n\n| a error: | b\n0 | 1.5 | x<y"
        )

    def test_an_update_of_an_earlier_display_is_described(self, shared: Session) -> None:
        shared.execute("handle = display('step 1', display_id='progress')").raise_for_error()
        execution = shared.execute("handle.update('step 2')\nhandle.update('step 3')")
        assert execution.outputs == ()
        assert [output.text for output in execution.updates] == ["'step 3'"]
        assert execution.text_for_model() == "displayed:\n'step 3'"

    def test_a_figure_is_described_once_without_its_artists(self, shared: Session) -> None:
        code = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\n"
        for last in ("figure", "axes.plot([1, 2])", "axes.set_title('f(x) > 1')", "axes", "axes.boxplot([1, 2])"):
            execution = shared.execute(code + last)
            assert execution.text_for_model() == "figures:\nfigure-1.png", last
            assert len(execution.images) == 1

    def test_a_widget_progress_bar_is_described_as_it_ended(self, shared: Session) -> None:
        shared.execute(_WIDGETS)
        execution = shared.execute("from tqdm.notebook import tqdm\nfor _ in tqdm(range(3), desc='rows'): pass")
        if execution.error is not None and "tqdm" in execution.error.value:
            pytest.skip("tqdm is not in the sandbox")
        text = execution.text_for_model()
        assert text.startswith("displayed:\nrows: 100%|")
        assert "3/3" in text

    def test_controls_are_visible_in_every_part(self, shared: Session) -> None:
        shared.execute("import sys")
        for code in (
            "print('a\\0b')",
            "sys.stderr.write('a\\0b\\n'); None",
            "raise ValueError('a\\0b')",
            "display({'text/plain': 'a\\0b'}, raw=True)",
            "display({'text/html': '<p>a\\0b'}, raw=True)",
        ):
            text = shared.execute(code).text_for_model()
            assert "\0" not in text
            assert "a\\x00b" in text, code

    def test_a_repeated_line_is_counted(self, shared: Session) -> None:
        execution = shared.execute(
            "import logging, warnings\n"
            "for number in range(400): logging.getLogger('fonts').warning('not found')\n"
            "with warnings.catch_warnings():\n"
            "    warnings.simplefilter('always')\n"
            "    for number in range(50): warnings.warn('deprecated')"
        )
        text = execution.text_for_model()
        assert "not found (400 times)\n" in text
        assert "UserWarning: deprecated" in text
        assert text.endswith("50 times)")
        assert "ipython-input" not in text

    def test_a_hint_is_about_the_error_or_a_command_that_failed(self, shared: Session) -> None:
        log = "ModuleNotFoundError: No module named 'numpy'\nCould not resolve host: example.org\n"
        shared.upload(log.encode(), "worker.log")
        shared.upload(b"V = 1\n", "deeper/helper_of_mine.py")
        for code in (
            "print(open('worker.log').read())",
            "raise ValueError(open('worker.log').read())",
            "from json.scanners import make",
            "import helper_of_mine",
        ):
            assert "hint:" not in shared.execute(code).text_for_model(), code
        for code in ("import nosuchpackage", "!echo curl: Could not resolve host: example.org; false"):
            assert "hint:" in shared.execute(code).text_for_model(), code
        shared.upload("Stra\xdfe;1\n".encode("latin-1"), "streets.csv")
        text = shared.execute("import pandas\npandas.read_csv('streets.csv')").text_for_model()
        assert "Try encoding='cp1252' and sep=None, engine='python'" in text
        assert shared.execute("pandas.read_csv('streets.csv', encoding='cp1252', sep=None, engine='python')").succeeded

    def test_one_report_is_reported_among_many_files(self, shared: Session) -> None:
        execution = shared.execute(
            "import os\nos.makedirs('tiles')\n"
            "for number in range(150): open(f'tiles/tile-{number:04}.png', 'w').write('x')\n"
            "open('zz_report.csv', 'w').write('a'); None"
        )
        assert execution.files_omitted == 51
        assert execution.text_for_model() == (
            "files written:\n/mnt/data/zz_report.csv (1 bytes)\n"
            "/mnt/data/tiles/tile-0000.png … /mnt/data/tiles/tile-0098.png (99 files, 99 bytes)\n… and 51 more files"
        )
