"""Many rows in one statement, for the tables that every instance passes through.

What is written is named by field; columns, defaults and what must not be left out come from the
model, once, where the statement is made: a field that is new or gone is an error there. It refuses
to validate values (the database does), and to know what the rows mean.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from django.core.exceptions import ImproperlyConfigured
from django.db import connection, models
from django.db.models import Model
from django.db.models.fields import NOT_PROVIDED

# SQLite takes 32,766 parameters in a statement.
PARAMETERS = 20_000

Value = str | bytes | int | datetime | None
Row = tuple[Value, ...]


class Insert:
    """Rows of one model, inserted with ids that were reserved before.

    Args:
        model: whose table.
        names: the fields that each row gives, in this order; a foreign key as ``study_id``, JSON as
            its text. A field not named gets its constant default, or NULL.
    """

    def __init__(self, model: type[Model], *names: str) -> None:
        fields = {field.attname: field for field in model._meta.concrete_fields}
        if unknown := [name for name in names if name not in fields]:
            raise ImproperlyConfigured(f"{model.__name__} has no field {', '.join(unknown)}.")
        rest = [field for name, field in fields.items() if name not in names]
        constants = [_constant(field) for field in rest if not field.primary_key]
        columns = [fields[name].column for name in names]
        columns += [field.column for field in rest if not field.primary_key]
        self._model = model
        self._constants = tuple(constants)
        self._dates = _indexes(fields[name] for name in names)
        self._into = f"{_quoted(model._meta.db_table)} ({', '.join(map(_quoted, columns))})"
        self._width = len(columns)

    def write(self, rows: Iterable[Row]) -> None:
        """Insert the rows.

        Raises:
            IntegrityError, DataError, OperationalError: as the database said; nothing stays.
        """
        whole = [row + self._constants for row in rows]
        if not whole:
            return
        if connection.vendor == "postgresql":
            self._copy(whole)
        else:
            self._execute_many(whole)

    def write_missing(self, rows: Iterable[Row]) -> None:
        """Insert the rows that meet no other under a unique constraint; leave out the rest."""
        values = f"({', '.join(['%s'] * self._width)})"
        for chunk in _chunks([row + self._constants for row in rows], self._width):
            listed = ", ".join([values] * len(chunk))
            sql = f"INSERT INTO {self._into} VALUES {listed} ON CONFLICT DO NOTHING"  # noqa: S608
            _execute(sql, [_adapted(value) for row in chunk for value in row])

    def _copy(self, rows: Sequence[Row]) -> None:
        """COPY reports in psycopg's words, which are put in Django's."""
        with (
            connection.cursor() as cursor,
            connection.wrap_database_errors,
            cursor.copy(f"COPY {self._into} FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def _execute_many(self, rows: Sequence[Row]) -> None:
        for index in self._dates:
            rows = [(*row[:index], _adapted(row[index]), *row[index + 1 :]) for row in rows]
        marks = ", ".join(["%s"] * self._width)
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {self._into} VALUES ({marks})", rows)  # noqa: S608


def reserve(model: type[Model], count: int) -> range | list[int]:
    """Take ids for rows yet to be inserted; call inside the transaction that inserts them.

    An id that is not used after all is a gap, as after any rollback.
    """
    if not count:
        return range(0)
    if connection.vendor == "postgresql":
        return _reserve_from_sequence(model, count)
    table, key = model._meta.db_table, _key(model)
    taken = "UPDATE sqlite_sequence SET seq = seq + %s WHERE name = %s RETURNING seq"
    first = (
        "INSERT INTO sqlite_sequence (seq, name) "  # noqa: S608 - our own names
        f"SELECT coalesce(max({_quoted(key)}), 0) + %s, %s FROM {_quoted(table)} RETURNING seq"
    )
    with connection.cursor() as cursor:
        cursor.execute(taken, [count, table])
        rows = cursor.fetchall()
        if not rows:
            cursor.execute(first, [count, table])
            rows = cursor.fetchall()
    last = int(rows[0][0])
    return range(last - count + 1, last + 1)


def _reserve_from_sequence(model: type[Model], count: int) -> list[int]:
    sequence = "pg_get_serial_sequence(%s, %s)"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT nextval({sequence}) FROM generate_series(1, %s)",  # noqa: S608 - no value
            [_quoted(model._meta.db_table), _key(model), count],
        )
        return sorted(int(row[0]) for row in cursor.fetchall())


class Update:
    """A change of many rows, each with values of its own.

    Args:
        model: whose table.
        changes: SQL by field; ``{1}`` is the first value after the row's id, and so on, and
            ``{greatest}`` the database's word for the greater of two.
        only: SQL of a condition that a row must meet besides.
    """

    def __init__(self, model: type[Model], *, changes: Mapping[str, str], only: str = "") -> None:
        columns = {field.attname: field.column for field in model._meta.concrete_fields}
        if unknown := [name for name in changes if name not in columns]:
            raise ImproperlyConfigured(f"{model.__name__} has no field {', '.join(unknown)}.")
        self._table = _quoted(model._meta.db_table)
        self._key = f"{self._table}.{_quoted(_key(model))}"
        self._sets = ", ".join(f"{_quoted(columns[name])} = {sql}" for name, sql in changes.items())
        self._only = f" AND {only}" if only else ""

    def write(self, rows: Sequence[Row]) -> int:
        """Change the rows, given as ids with their values; return how many were changed."""
        return sum(self._write(chunk) for chunk in _chunks(rows, len(rows[0]) if rows else 1))

    def _write(self, rows: Sequence[Row]) -> int:
        width = len(rows[0])
        given = ["", *[f"given.column{n}" for n in range(2, width + 1)]]
        greatest = "GREATEST" if connection.vendor == "postgresql" else "max"
        sets = self._sets.format(*given, greatest=greatest)
        values = ", ".join([f"({', '.join(['%s'] * width)})"] * len(rows))
        sql = (
            f"UPDATE {self._table} SET {sets} FROM (VALUES {values}) AS given "  # noqa: S608
            f"WHERE {self._key} = given.column1{self._only}"
        )
        return _execute(sql, [_adapted(value) for row in rows for value in row])


def _execute(sql: str, values: Sequence[Value]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.rowcount)


def _chunks(rows: Sequence[Row], width: int) -> Iterator[Sequence[Row]]:
    most = PARAMETERS // width
    for first in range(0, len(rows), most):
        yield rows[first : first + most]


def _constant(field: "models.Field[object, object]") -> Value:
    """The value of a field that no row gives.

    Raises:
        ImproperlyConfigured: it has none, or one that differs from row to row.
    """
    if callable(field.default) and field.default is not NOT_PROVIDED:
        raise ImproperlyConfigured(f"{field} must be given in each row.")
    if field.has_default():
        default: Value = getattr(field.default, "value", field.default)
        return default
    if field.null:
        return None
    raise ImproperlyConfigured(f"{field} must be given in each row.")


def _indexes(fields: "Iterable[models.Field[object, object]]") -> tuple[int, ...]:
    return tuple(n for n, field in enumerate(fields) if isinstance(field, models.DateTimeField))


def _adapted(value: Value) -> Value:
    """A moment as the database takes it; SQLite holds text, in UTC."""
    if isinstance(value, datetime) and connection.vendor == "sqlite":
        return str(value.astimezone(UTC).replace(tzinfo=None))
    return value


def _key(model: type[Model]) -> str:
    key = model._meta.pk
    assert key is not None  # noqa: S101 - every model has one
    return key.column


def _quoted(name: str) -> str:
    return f'"{name}"'
