"""StoryCloze (§4.8): which of two endings completes a story of four sentences.

Release (Mostafazadeh et al., 2016; available through the form on the ROCStories page): CSV files with the columns
InputStoryid, InputSentence1 … InputSentence4, RandomFifthSentenceQuiz1, RandomFifthSentenceQuiz2 and AnswerRightEnding
(1 or 2); 1,871 stories each in validation and test. The training stories have no wrong endings, so demonstrations are
drawn from the validation set, as in GPT-3. The prompt is that of lm-evaluation-harness's `storycloze_2016`; accuracy is
by likelihood.
"""

from collections.abc import Mapping
from typing import Any

from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, continuations
from kosmos_plugin.evaluation.files import read_table

SENTENCES = tuple(f"InputSentence{number}" for number in (1, 2, 3, 4))
ENDINGS = {number: f"RandomFifthSentenceQuiz{number}" for number in ("1", "2")}


class StoryCloze(LanguageTask):
    """StoryCloze, on its test or validation set."""

    name = "storycloze"
    title = "StoryCloze"
    release = "storycloze"
    source = (
        "the CSV files of the Story Cloze Test, spring 2016, under their original names; available through the form on "
        "https://cs.rochester.edu/nlp/rocstories"
    )
    splits = ("test", "val")
    training_split = "val"
    file = "cloze_test_{split}__spring2016 - cloze_test_ALL_{split}.csv"
    fields = dict.fromkeys((*SENTENCES, *ENDINGS.values()), str)
    answer_field = "AnswerRightEnding"

    def records(self, split: str) -> list[dict[str, Any]]:
        return read_table(self.folder / self.split_file(split), (*self.fields, self.answer_field))

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        context = " ".join(record[sentence] for sentence in SENTENCES)
        return continuations(context, {label: record[ending] for label, ending in ENDINGS.items()})
