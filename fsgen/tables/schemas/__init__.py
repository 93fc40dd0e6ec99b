"""The columns of every table, each with its sentence: one module for each stage or package that fills them.

They stand apart from the code that fills them, so that `fsgen sql` describes every view without torch.
"""
