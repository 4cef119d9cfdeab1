"""A small corpus of sentences, each of which tells its place, and the questions that tests ask of it."""

from pathlib import Path

from famjax.data.questions.opening import open_questions
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Bytes

NUM_FILES, NUM_SENTENCES = 4, 60


def sentence(file, number):
    """One sentence of the corpus."""
    return f"In chapter {file} the {number}th sentence {'goes on and ' * (number % 4)}ends."


def write_prose(folder: Path) -> dict[str, Documents]:
    """Writes the corpus, the same for both splits, and returns the tasks that read it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(NUM_FILES):
        lines = [sentence(file, number) for number in range(NUM_SENTENCES)]
        folder.joinpath(f"{file}.txt").write_text("\n\t".join([*lines, ""]))
    paths = (f"{folder}/*.txt",)
    return {"documents": Documents(paths=paths, validation_paths=paths)}


class Asking:
    """Opens tasks over the corpus."""

    def __init__(self, folder: Path) -> None:
        self.tasks = write_prose(folder)

    def __call__(self, name, length=4096, config=None, vocabulary=None, **changes):
        """Opens the questions of a task; `config`: settings that take the place of its own."""
        values = {"split": "validation", "depth": None, "seed": 0} | changes
        tasks = self.tasks if config is None else {**self.tasks, name: config}
        return open_questions(name, length=length, vocabulary=vocabulary or Bytes(), tasks=tasks, **values)
