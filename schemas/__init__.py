"""What every room speaks: records, Arrow schemas, expectations, errors and tables."""
