//! Parquet files, row by row. Decoding is the `parquet` crate's; here its fields become JSON values.

use std::path::Path;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use serde_json::{Number, Value};

use super::{Columns, Row};
use crate::{Error, Result};

/// Calls `each` for every row.
pub fn read(path: &Path, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let failed = |error: ParquetError| Error::Data(format!("`{}` is no parquet file that can be read: {error}", path.display()));
    let reader = SerializedFileReader::new(super::open(path)?).map_err(failed)?;
    for (index, row) in reader.get_row_iter(None).map_err(failed)?.enumerate() {
        let row = row.map_err(failed)?;
        let columns: Result<Columns, String> =
            row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?))).collect();
        each(Row { number: index as u64 + 1, columns })?;
    }
    Ok(())
}

fn value(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => Number::from_f64((*value).into()).map_or(Value::Null, Value::Number),
        Field::Double(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
        Field::Str(text) => text.as_str().into(),
        Field::Group(row) => Value::Object(
            row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?))).collect::<Result<_, String>>()?,
        ),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect::<Result<_, String>>()?),
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, field)| match key {
                Field::Str(key) => Ok((key.clone(), value(field)?)),
                _ => Err("a map's keys must be texts".to_string()),
            });
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
        Field::Bytes(bytes) => {
            std::str::from_utf8(bytes.data()).map_err(|_| "it has bytes that are no UTF-8 text".to_string())?.into()
        }
        other => Err(format!("it has a value `{other}` of a kind that no example has"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::data_type::ByteArrayType;
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    #[test]
    fn rows_become_objects_of_their_columns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let schema =
            parse_message_type("message rows { required binary prompt (UTF8); optional binary completion (UTF8); }").unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(WriterProperties::default())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for (values, levels) in [(vec!["a", "b"], None), (vec!["c"], Some([1i16, 0]))] {
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<_> = values.into_iter().map(Into::into).collect();
            column.typed::<ByteArrayType>().write_batch(&values, levels.as_ref().map(|l| &l[..]), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        let mut rows = Vec::new();
        read(&path, &mut |row| {
            rows.push((row.number, Value::Object(row.columns.unwrap()).to_string()));
            Ok(())
        })
        .unwrap();
        let expected = [(1, r#"{"prompt":"a","completion":"c"}"#.into()), (2, r#"{"prompt":"b","completion":null}"#.into())];
        assert_eq!(rows, expected);
    }
}
