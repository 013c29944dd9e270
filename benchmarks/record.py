"""One JSON line per measurement, printed and kept in `benchmarks/results/`."""

import datetime
import json
import platform
from pathlib import Path

RESULTS = Path(__file__).parent / 'results'


def record(name: str, **figures: object) -> dict[str, object]:
    """Prints the figures as one JSON line and appends it to `results/<name>.jsonl`.

    Args:
        name: the benchmark.
        figures: what was measured and under which settings; the unit is in each name. JSON values.
    """
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    line = {'benchmark': name, 'when': when, 'machine': platform.machine(), **figures}
    text = json.dumps(line)
    print(text, flush=True)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f'{name}.jsonl').open('a') as file:
        file.write(text + '\n')
    return line
