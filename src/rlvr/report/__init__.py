"""The report: tables, figures and one HTML page from the outputs of the other stages. No torch; home of matplotlib."""
