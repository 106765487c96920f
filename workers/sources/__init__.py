"""From a block of `datasets:` to a stream of rows.

*What stands in the file is what is learned*: a cell of a table is text, a number of JSON keeps its spelling, and a row
that cannot be read is refused by its number. So the files are read here, by Python's own csv and json and by pyarrow,
row by row. `datasets` guesses a type for each column and spells the values anew (`00712` as `712`); what is taken from
it are its rules: which files of a folder or a hub dataset belong to which split, and how a slice of a split is written.
"""

from workers.sources.row_source import RowSource, open_rows
from workers.sources.rows import BadRow

__all__ = ["BadRow", "RowSource", "open_rows"]
