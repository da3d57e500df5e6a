"""The rating as widgets: two pictures, three buttons, and a line that says how many are left.

Nothing is decided here. Buttons are plain ones, reached with Tab and pressed with Enter or Space; after each answer the
button that was pressed keeps the focus, so that a whole session needs no mouse.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from harness.images import decode
from harness.widgets import rate

if TYPE_CHECKING:
    import ipywidgets

LABELS = {rate.LEFT: "◀ left is better", rate.CANNOT_TELL: "cannot tell", rate.RIGHT: "right is better ▶"}
BACK = "take back"


class Panel:
    """A ballot on the screen: `widget` is what a notebook displays."""

    def __init__(self, ballot: rate.Ballot, question: str = "Which picture shows the prompt better?", width: int = 288, prompt: bool = True) -> None:
        """Build it and show the first pair that has no answer; `prompt` says whether raters read what was asked for."""
        import ipywidgets

        self.ballot, self.width, self.prompt = ballot, width, prompt
        self.pictures = {side: ipywidgets.HTML() for side in (rate.LEFT, rate.RIGHT)}
        self.line = ipywidgets.HTML()
        self.buttons = {answer: ipywidgets.Button(description=label, tooltip=f"answer: {answer}") for answer, label in LABELS.items()}
        self.back = ipywidgets.Button(description=BACK, tooltip="take back the last answer")
        for answer, button in self.buttons.items():
            button.on_click(lambda _, said=answer: self._say(said))
        self.back.on_click(lambda _: self._undo())
        self.widget: ipywidgets.VBox = ipywidgets.VBox([ipywidgets.HTML(f"<b>{html.escape(question)}</b>"), self.line,
                                                        ipywidgets.HBox(list(self.pictures.values())), ipywidgets.HBox([*self.buttons.values(), self.back])])
        self._show()

    def _say(self, answer: str) -> None:
        if self.ballot.next is not None:  # a second press while the last pair is on its way
            self.ballot.answer(answer)
        self._show()

    def _undo(self) -> None:
        self.ballot.undo()
        self._show()

    def _show(self) -> None:
        """Put the next pair on the screen, or say that there is none."""
        trial, done, of = self.ballot.next, len(self.ballot.answers), len(self.ballot.trials)
        asked = f" · “{html.escape(trial.prompt)}”" if trial and self.prompt else ""
        self.line.value = f"<span role='status'>{done} of {of} answered{asked if trial else '. Thank you: everything is saved.'}</span>"
        for side, path in ((rate.LEFT, trial.left), (rate.RIGHT, trial.right)) if trial else ():
            self.pictures[side].value = self._picture(path, side)
        for widget in (*self.pictures.values(), *self.buttons.values()):
            widget.layout.display = None if trial else "none"
        for button in self.buttons.values():
            button.disabled = trial is None
        self.back.disabled = not done

    def _picture(self, path: Path, side: str) -> str:
        """The picture as pixels alone: no file name, and none of the text that the file may carry."""
        from harness import plots

        data = base64.b64encode(plots.png(decode(path))).decode()
        style = f"width:{self.width}px;image-rendering:{'pixelated' if self.width >= 2 * decode(path).width else 'auto'}"
        return f'<img alt="{side} picture" style="{style}" src="data:image/png;base64,{data}">'
