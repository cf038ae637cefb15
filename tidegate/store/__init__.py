"""The database: tables, migrations, one repository file per aggregate."""
