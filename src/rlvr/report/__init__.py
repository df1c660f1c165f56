"""The report: tables, figures and one HTML page out of what the other stages wrote. No torch; matplotlib lives here."""
