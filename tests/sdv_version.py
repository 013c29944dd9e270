"""One dialect for SDV 1.38 and 2.x: a plain DataFrame goes in, a plain DataFrame comes out.

SDV 2.x takes and returns {table name: DataFrame} and writes into a folder; 1.38 takes and returns the DataFrame itself
and writes into a file. Nothing else differs for what the tests ask.
"""

from importlib.metadata import version

from sdv.metadata import Metadata

TABLE = 't'
IN_DICTS = int(version('sdv').split('.')[0]) >= 2


def metadata_of(table, columns=None, primary_key=None):
    """Metadata as SDV detects them, but with the descriptions in `columns` and with the given primary key or none."""
    described = Metadata.detect_from_dataframes({TABLE: table}).to_dict()
    detected = described['tables'][TABLE]
    detected['columns'] |= columns or {}
    detected.pop('primary_key', None)
    if primary_key is not None:
        detected['primary_key'] = primary_key
    return Metadata.load_from_dict(described)


def _given(table):
    return {TABLE: table} if IN_DICTS else table


def _received(result):
    return result[TABLE] if IN_DICTS else result


def fit(synthesizer, table):
    synthesizer.fit(_given(table))
    return synthesizer


def validate(synthesizer, table):
    synthesizer.validate(_given(table))


def auto_assign_transformers(synthesizer, table):
    synthesizer.auto_assign_transformers(_given(table))


def preprocess(synthesizer, table):
    return _received(synthesizer.preprocess(_given(table)))


def fit_processed_data(synthesizer, processed):
    synthesizer.fit_processed_data(_given(processed))


def sample(synthesizer, num_rows, **arguments):
    return _received(synthesizer.sample(num_rows, **_written(arguments)))


def sample_from_conditions(synthesizer, conditions, **arguments):
    return _received(synthesizer.sample_from_conditions(conditions, **_written(arguments)))


def sample_remaining_columns(synthesizer, known_columns, **arguments):
    return _received(synthesizer.sample_remaining_columns(known_columns, **_written(arguments)))


def _written(arguments):
    """Turns `folder` into what this SDV calls the place that rows are written to, as <folder>/t.csv."""
    others = {name: value for name, value in arguments.items() if name != 'folder'}
    if 'folder' not in arguments:
        return others
    folder = arguments['folder']
    return others | ({'output_folder_path': folder} if IN_DICTS else {'output_file_path': folder / f'{TABLE}.csv'})
