//! What a query engine needs of the tables that it asks: columns, which conditions they can answer
//! quickly, and rows. No SQL type crosses it.

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Int(i64),
    /// A fraction.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes; names and contents that are no UTF-8 too.
    Blob(Vec<u8>),
}

impl Cell {
    /// Text where the bytes are UTF-8, else the bytes.
    pub fn bytes(bytes: &[u8]) -> Cell {
        match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(_) => Cell::Blob(bytes.to_vec()),
        }
    }

    /// A number that the schema keeps below 2^63.
    pub fn number(value: u64) -> Cell {
        Cell::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// Text or bytes as bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Cell::Text(text) => Some(text.as_bytes()),
            Cell::Blob(bytes) => Some(bytes),
            Cell::Null | Cell::Int(_) | Cell::Real(_) => None,
        }
    }

    /// A number that is not negative.
    pub fn as_number(&self) -> Option<u64> {
        match self {
            Cell::Int(value) => u64::try_from(*value).ok(),
            Cell::Null | Cell::Real(_) | Cell::Text(_) | Cell::Blob(_) => None,
        }
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Null, Into::into)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Cell {
        Cell::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Cell {
        Cell::Text(value)
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Cell {
        Cell::Int(i64::from(value))
    }
}

/// How a condition compares a column with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `=`
    Eq,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `LIKE`
    Like,
    /// `GLOB`
    Glob,
}

/// A condition on a column. A table may use it to leave rows out; the query engine checks all of
/// them again, except for the one on the state asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Which column, by its place in [`Table::columns`].
    pub column: usize,
    /// The comparison.
    pub test: Test,
    /// With what.
    pub value: Cell,
}

/// What is asked of a table in one pass over it.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The state, as `T('REF')` or `T FOR SYSTEM_TIME AS OF 'REF'` gave it.
    pub as_of: Option<Cell>,
    /// Conditions that all hold.
    pub conditions: Vec<Condition>,
    /// Columns that are asked for, by place; others may be [`Cell::Null`].
    pub used: u64,
    /// Whether rows are to come by falling values of the table's ordered columns.
    pub descending: bool,
}

impl Scan {
    /// Tells whether a column is asked for.
    pub fn uses(&self, column: usize) -> bool {
        // Bit 63 stands for all columns from there on.
        self.used >> column.min(63) & 1 == 1
    }

    /// Finds the value that a column must equal.
    pub fn equal(&self, column: usize) -> Option<&Cell> {
        self.conditions.iter().find(|c| c.column == column && c.test == Test::Eq).map(|c| &c.value)
    }
}

/// A table that can be asked.
pub trait Table: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Its columns: name and SQL type.
    fn columns(&self) -> &'static [(&'static str, &'static str)];

    /// Columns by which rows ascend.
    fn ordered(&self) -> &'static [usize] {
        &[]
    }

    /// Estimates how many rows must be looked at where these conditions hold.
    fn rows(&self, conditions: &[(usize, Test)]) -> f64;

    /// Begins a pass.
    ///
    /// # Errors
    /// A line for the user.
    fn open(&self, scan: Scan) -> Result<Box<dyn Rows>, String>;
}

/// A pass over a table.
pub trait Rows {
    /// Returns the next row, one cell a column.
    ///
    /// # Errors
    /// A line for the user.
    fn next(&mut self) -> Result<Option<Vec<Cell>>, String>;
}

/// What computes a function's value.
pub type Body = Box<dyn Fn(&[Cell]) -> Result<Cell, String> + Send + Sync>;

/// A function that queries can call.
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// How many arguments it takes.
    pub arguments: i32,
    /// What it does.
    pub body: Body,
}

/// Bounds of one query.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest it may run, in milliseconds.
    pub time_ms: u64,
    /// The largest value or row in bytes.
    pub value_max: i32,
    /// The most bytes of temporary files.
    pub temporary_max: u64,
}

/// Asked now and then while a query runs: whether nobody waits for its answer any more.
pub type Stop = std::sync::Arc<dyn Fn() -> bool + Send + Sync>;

impl Default for Limits {
    fn default() -> Limits {
        Limits { time_ms: 60_000, value_max: 64 << 20, temporary_max: 1 << 30 }
    }
}

/// Takes a query's result.
pub trait Output {
    /// The names of the columns, before the first row.
    ///
    /// # Errors
    /// Ends the query.
    fn columns(&mut self, names: &[&str]) -> Result<(), String>;

    /// A row.
    ///
    /// # Errors
    /// Ends the query.
    fn row(&mut self, cells: Vec<Cell>) -> Result<(), String>;
}
