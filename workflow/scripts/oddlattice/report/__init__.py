"""What the report is made of: numbers as text, pictures, plots and pages."""
