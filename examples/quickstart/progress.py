"""Shows a progress bar for fairseq-train's JSON log, read from standard input, and appends the log to a file.

fairseq-train … --log-format json 2>&1 | python progress.py MAX_UPDATE LOG
"""

import json
import sys
from pathlib import Path

from tqdm import tqdm

LAST_LINES = 15


def main() -> None:
    updates, log = int(sys.argv[1]), Path(sys.argv[2])
    lines: list[str] = []
    with log.open("a", encoding="utf-8") as kept, tqdm(total=updates, desc="training", unit="update") as bar:
        for line in sys.stdin:
            kept.write(line)
            kept.flush()
            lines = [*lines[-LAST_LINES:], line]
            if "| train_inner | {" in line:
                values = json.loads(line[line.index("{") :])
                bar.update(int(values["num_updates"]) - bar.n)
                streams = {name.removeprefix("loss_"): values[name] for name in values if name.startswith("loss_")}
                bar.set_postfix(streams)  # bits per token
    if not any("done training" in line for line in lines):
        sys.exit("".join(lines))


if __name__ == "__main__":
    main()
