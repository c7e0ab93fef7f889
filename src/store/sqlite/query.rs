//! SQL over tables that are not SQLite's: an empty database in memory with every [`Table`] as a
//! virtual one. The file of the store is not attached to it, so that no statement can reach it.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor,
};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, ffi};

use super::temporary;
use crate::store::query::{Cell, Condition, Function, Limits, Output, Rows, Scan, Stop, Table, Test};

/// The longest statement in bytes.
const SQL_MAX: i32 = 1 << 20;
/// Virtual machine steps between looks at the clock.
const STEPS: c_int = 10_000;

/// A connection that can only ask.
pub struct Session {
    conn: Connection,
    watch: Arc<Watch>,
    limits: Limits,
}

/// What ends a query before its time.
struct Watch {
    until: Mutex<Option<Instant>>,
    stop: Stop,
}

impl Watch {
    fn is_over(&self) -> bool {
        (self.stop)() || self.until.lock().is_some_and(|until| Instant::now() >= until)
    }
}

impl Session {
    /// Opens a session over some tables.
    ///
    /// # Errors
    /// A line for the user.
    pub fn open(
        tables: Vec<Arc<dyn Table>>,
        functions: Vec<Function>,
        limits: Limits,
        stop: Stop,
    ) -> Result<Session, String> {
        if !temporary::install() {
            return Err("SQLite takes no bound on temporary files".to_owned());
        }
        Session::build(tables, functions, limits, stop).map_err(|error| message(&error))
    }

    fn build(
        tables: Vec<Arc<dyn Table>>,
        functions: Vec<Function>,
        limits: Limits,
        stop: Stop,
    ) -> rusqlite::Result<Session> {
        const MODULE: Module<'static, Virtual> = Module::eponymous_only_module();
        let mut conn = Connection::open_in_memory_with_flags_and_vfs(
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_MEMORY,
            temporary::VFS,
        )?;
        // Sorting what is large goes through temporary files; names of columns come as they were typed.
        conn.execute_batch("PRAGMA temp_store=FILE; PRAGMA cache_size=-16384; PRAGMA trusted_schema=OFF;")?;
        let watch = Arc::new(Watch { until: Mutex::new(None), stop });
        for table in tables {
            let aux = Shared { table: Arc::clone(&table), watch: Arc::clone(&watch) };
            conn.create_module(table.name(), &MODULE, Some(aux))?;
        }
        for function in functions {
            let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
            let body = function.body;
            conn.create_scalar_function(function.name, function.arguments, flags, move |context| {
                let cells: Vec<Cell> = (0..context.len()).map(|i| cell(context.get_raw(i))).collect();
                body(&cells).map(Sql).map_err(|text| rusqlite::Error::UserFunctionError(text.into()))
            })?;
        }
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_LENGTH, limits.value_max),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_MAX),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
            (Limit::SQLITE_LIMIT_VDBE_OP, 250_000),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 4096),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            conn.set_limit(limit, value)?;
        }
        let watching = Arc::clone(&watch);
        conn.progress_handler(STEPS, Some(move || watching.is_over()))?;
        conn.authorizer(Some(authorize))?;
        Ok(Session { conn, watch, limits })
    }

    /// Runs statements, one after the other.
    ///
    /// # Errors
    /// A line for the user.
    pub fn run(&mut self, sql: &str, out: &mut dyn Output) -> Result<(), String> {
        *self.watch.until.lock() = Some(Instant::now() + Duration::from_millis(self.limits.time_ms));
        temporary::allow(self.limits.temporary_max);
        let result = self.statements(sql, out);
        *self.watch.until.lock() = None;
        match result {
            Err(Failure::Output(text)) => Err(text),
            Err(Failure::Sql(rusqlite::Error::SqliteFailure(error, _))) if error.code == ErrorCode::DiskFull => {
                Err(format!(
                    "the query needs more temporary disk than there is, or than the {} MiB that it may use; narrow it",
                    self.limits.temporary_max >> 20
                ))
            }
            Err(Failure::Sql(rusqlite::Error::SqliteFailure(error, _)))
                if error.code == ErrorCode::OperationInterrupted && (self.watch.stop)() =>
            {
                Err("interrupted".to_owned())
            }
            Err(Failure::Sql(rusqlite::Error::SqliteFailure(error, _)))
                if error.code == ErrorCode::OperationInterrupted =>
            {
                Err(format!(
                    "stopped after {} seconds; narrow the query, or raise --timeout",
                    self.limits.time_ms / 1000
                ))
            }
            Err(Failure::Sql(error)) => Err(message(&error)),
            Ok(()) => Ok(()),
        }
    }

    fn statements(&self, sql: &str, out: &mut dyn Output) -> Result<(), Failure> {
        let mut batch = rusqlite::Batch::new(&self.conn, sql);
        while let Some(mut statement) = batch.next().map_err(Failure::Sql)? {
            let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if statement.parameter_count() > 0 {
                return Err(Failure::Output("parameters (?) have no values here; write the value".to_owned()));
            }
            out.columns(&names).map_err(Failure::Output)?;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().map_err(Failure::Sql)? {
                let cells = (0..names.len()).map(|i| row.get_ref(i).map(cell)).collect::<rusqlite::Result<Vec<_>>>();
                out.row(cells.map_err(Failure::Sql)?).map_err(Failure::Output)?;
            }
        }
        Ok(())
    }
}

enum Failure {
    Sql(rusqlite::Error),
    Output(String),
}

fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(error, _) if error.code == ErrorCode::AuthorizationForStatementDenied => {
            "queries only read: this statement is not allowed".to_owned()
        }
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        rusqlite::Error::SqlInputError { msg, sql, offset, .. } => {
            let near = usize::try_from(*offset).ok().and_then(|at| sql.get(at..)).unwrap_or_default();
            let near: String = near.chars().take(20).collect();
            if near.is_empty() || msg.contains("near ") { msg.clone() } else { format!("{msg} (at \"{near}\")") }
        }
        rusqlite::Error::ModuleError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Lets statements read, and nothing else.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } => {
            // What could reach outside, or take memory without bound.
            if ["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"].contains(&function_name) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }
        AuthAction::Pragma { pragma_name: "table_info" | "table_xinfo" | "function_list", .. } => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Int(value),
        ValueRef::Real(value) => Cell::Real(value),
        ValueRef::Text(bytes) => Cell::bytes(bytes),
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
    }
}

struct Sql(Cell);

impl ToSql for Sql {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(borrowed(&self.0))
    }
}

fn borrowed(cell: &Cell) -> ToSqlOutput<'_> {
    match cell {
        Cell::Null => ToSqlOutput::Owned(Value::Null),
        Cell::Int(value) => ToSqlOutput::Owned(Value::Integer(*value)),
        Cell::Real(value) => ToSqlOutput::Owned(Value::Real(*value)),
        Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        Cell::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
    }
}

/// What a virtual table is made of.
#[derive(Clone)]
struct Shared {
    table: Arc<dyn Table>,
    watch: Arc<Watch>,
}

/// A [`Table`] as SQLite's virtual table, with a hidden last column for the state asked for.
#[repr(C)]
struct Virtual {
    /// SQLite's part; must be first.
    base: ffi::sqlite3_vtab,
    shared: Shared,
}

fn test_of(operator: IndexConstraintOp) -> Option<Test> {
    match operator {
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Some(Test::Eq),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => Some(Test::Lt),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => Some(Test::Le),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => Some(Test::Gt),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => Some(Test::Ge),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LIKE => Some(Test::Like),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GLOB => Some(Test::Glob),
        _ => None,
    }
}

const TESTS: [Test; 7] = [Test::Eq, Test::Lt, Test::Le, Test::Gt, Test::Ge, Test::Like, Test::Glob];

// `repr(C)` with SQLite's structure first, as the trait asks for.
#[allow(unsafe_code)]
unsafe impl<'vtab> VTab<'vtab> for Virtual {
    type Aux = Shared;
    type Cursor = Cursor<'vtab>;

    fn connect(
        db: &mut VTabConnection,
        aux: Option<&Shared>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _arguments: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Virtual)> {
        let Some(shared) = aux.cloned() else { return Err(rusqlite::Error::ModuleError("no table".into())) };
        db.config(VTabConfig::Innocuous)?;
        let columns = shared.table.columns().iter().map(|(name, kind)| format!("\"{name}\" {kind}, "));
        let sql = format!("CREATE TABLE x({}as_of HIDDEN)", columns.collect::<String>());
        let sql = CString::new(sql).map_err(|error| rusqlite::Error::ModuleError(error.to_string()))?;
        Ok((Cow::Owned(sql), Virtual { base: ffi::sqlite3_vtab::default(), shared }))
    }

    /// The plan is text for [`VTabCursor::filter`]: the columns used, the direction, and column and
    /// test of each argument.
    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let hidden = self.shared.table.columns().len() as c_int;
        let used = info.col_used();
        let mut plan = String::new();
        let mut given = Vec::new();
        let mut arguments = 0;
        for (constraint, mut usage) in info.constraints_and_usages() {
            let Some(test) = test_of(constraint.operator()) else { continue };
            if constraint.column() == hidden && !constraint.is_usable() {
                return Ok(false);
            }
            let Ok(column) = usize::try_from(constraint.column()) else { continue };
            let Some(code) = TESTS.iter().position(|other| *other == test) else { continue };
            if !constraint.is_usable() || (constraint.column() == hidden && test != Test::Eq) {
                continue;
            }
            arguments += 1;
            usage.set_argv_index(arguments);
            usage.set_omit(constraint.column() == hidden);
            plan.push_str(&format!(" {column} {code}"));
            given.push((column, test));
        }
        let ordered = self.shared.table.ordered();
        let order: Vec<(c_int, bool)> = info.order_bys().map(|by| (by.column(), by.is_order_by_desc())).collect();
        let mut descending = false;
        if let [(column, desc)] = order[..]
            && usize::try_from(column).is_ok_and(|column| ordered.contains(&column))
        {
            info.set_order_by_consumed(true);
            descending = desc;
        }
        let rows = self.shared.table.rows(&given);
        info.set_estimated_cost(rows * 10.0 + 1.0);
        info.set_estimated_rows(rows as i64);
        info.set_idx_str(&format!("{used} {}{plan}", u8::from(descending)));
        Ok(true)
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Cursor<'vtab>> {
        Ok(Cursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            shared: self.shared.clone(),
            rows: None,
            current: None,
            number: 0,
            table: PhantomData,
        })
    }
}

#[repr(C)]
struct Cursor<'vtab> {
    /// SQLite's part; must be first.
    base: ffi::sqlite3_vtab_cursor,
    shared: Shared,
    rows: Option<Box<dyn Rows>>,
    current: Option<Vec<Cell>>,
    number: i64,
    table: PhantomData<&'vtab Virtual>,
}

fn failed(text: String) -> rusqlite::Error {
    rusqlite::Error::ModuleError(text)
}

// `repr(C)` with SQLite's structure first, as the trait asks for.
#[allow(unsafe_code)]
unsafe impl VTabCursor for Cursor<'_> {
    fn filter(&mut self, _number: c_int, plan: Option<&str>, arguments: &Filters<'_>) -> rusqlite::Result<()> {
        let mut words = plan.unwrap_or_default().split(' ').map(str::parse::<u64>);
        let mut word = || words.next().and_then(Result::ok);
        let mut scan = Scan { used: word().unwrap_or(u64::MAX), descending: word() == Some(1), ..Scan::default() };
        let hidden = self.shared.table.columns().len();
        for argument in arguments.iter() {
            let place = word().and_then(|column| usize::try_from(column).ok());
            let code = word().and_then(|code| usize::try_from(code).ok());
            let test = code.and_then(|code| TESTS.get(code).copied());
            let (Some(column), Some(test)) = (place, test) else { return Err(failed("broken plan".to_owned())) };
            let value = cell(argument);
            if column == hidden {
                scan.as_of = Some(value);
            } else {
                scan.conditions.push(Condition { column, test, value });
            }
        }
        self.rows = Some(self.shared.table.open(scan).map_err(failed)?);
        self.number = 0;
        self.next()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        if self.number % 64 == 0 && self.shared.watch.is_over() {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None));
        }
        self.number += 1;
        self.current = match &mut self.rows {
            Some(rows) => rows.next().map_err(failed)?,
            None => None,
        };
        Ok(())
    }

    fn eof(&self) -> bool {
        self.current.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> rusqlite::Result<()> {
        let place = usize::try_from(column).ok();
        match place.and_then(|place| self.current.as_ref()?.get(place)) {
            Some(cell) => context.set_result(borrowed(cell)),
            None => context.set_result(rusqlite::types::Null),
        }
    }

    /// The same for a row whichever conditions found it, and another for every row: where conditions are joined by
    /// `OR`, SQLite asks once for each and takes rows of one number for one.
    fn rowid(&self) -> rusqlite::Result<i64> {
        let mut hasher = DefaultHasher::new();
        for cell in self.current.iter().flatten() {
            match cell {
                Cell::Null => 0u8.hash(&mut hasher),
                Cell::Int(value) => (1u8, value).hash(&mut hasher),
                Cell::Real(value) => (2u8, value.to_bits()).hash(&mut hasher),
                Cell::Text(text) => (3u8, text).hash(&mut hasher),
                Cell::Blob(bytes) => (4u8, bytes).hash(&mut hasher),
            }
        }
        Ok(hasher.finish().cast_signed())
    }
}
