"""Token tables: one for each text variant."""


def test_each_tweet_is_tokenised_once_for_each_text_variant(prepare_job):
    job = prepare_job()
    assert len(job.runs) == 45
    tables = sorted(path.name.split("-")[0] for path in job.data.token_folder.glob("*.arrow"))
    assert tables == ["labelled", "labelled", "test", "test"]  # raw and cleaned
