from tests.apart import main

main("apart/samples", "-o", "python_files=outcomes.py", "-o", "timeout=5")
