-- Money: a ledger that is only ever added to, and budgets that hold however many ask at once.
--
-- Triggers keep the books, so that nothing that changes a job can forget to: each entry is written
-- in the transaction, and by the statement, that causes it. The previous release knows nothing of
-- it: what it does is entered as well, but no budget holds it back.

ALTER TABLE video_jobs
    -- How often money was reserved for the job within the budgets, or else refused.
    ADD COLUMN reservations integer NOT NULL DEFAULT 0,
    -- Who is expected to pay for the next attempt: `server`, or `user` with a key of their own; NULL
    -- is the server. The credential of an attempt says who really does.
    ADD COLUMN payer text,
    -- It may be made though nobody knows its price, whatever the budgets.
    ADD COLUMN allow_unknown_price boolean NOT NULL DEFAULT false;

-- In micro-dollars: `reserved` is what an attempt will cost by the estimate; it ends as `charged`
-- (for a video), `wasted` (for nothing) or `released` (never spent). What is still open of a job is
-- reserved - released - charged - wasted. Corrections are entries with a negative amount.
CREATE TABLE ledger (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text NOT NULL CHECK (kind IN ('reserved', 'charged', 'released', 'wasted')),
    -- No reference: jobs are deleted, the ledger is not.
    job_id      uuid NOT NULL,
    attempt     integer NOT NULL,
    provider    text NOT NULL,
    model       text NOT NULL,
    payer       text NOT NULL CHECK (payer IN ('server', 'user')),
    -- NULL once they are forgotten.
    user_id     text,
    micros      bigint NOT NULL CHECK (micros >= 0 OR kind IN ('charged', 'wasted')),
    -- Only the provider knows whether it was paid: the estimate stands in.
    uncertain   boolean NOT NULL DEFAULT false,
    -- The day, in UTC, whose budgets it counts against: the one it was reserved on.
    reserved_on date NOT NULL
);
CREATE INDEX ledger_by_job ON ledger (job_id);
CREATE INDEX ledger_by_day ON ledger (reserved_on);
CREATE INDEX ledger_by_user ON ledger (user_id) WHERE user_id IS NOT NULL;
-- It grows in the order of time.
CREATE INDEX ledger_by_time ON ledger USING brin (at);

-- `all`, `provider:NAME`, `user:ID`, or `each-user` for everybody who has none of their own.
CREATE TABLE budgets (
    scope        text NOT NULL,
    period       text NOT NULL CHECK (period IN ('day', 'month', 'total')),
    limit_micros bigint NOT NULL CHECK (limit_micros >= 0),
    by           text NOT NULL,
    set_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, period)
);

-- What counts against a budget: here, together with all changes that are not added yet. Only who
-- reserves locks a row; who releases or charges adds a change and waits for nobody, least of all
-- for a transaction of somebody's that reserves and then takes its time.
CREATE TABLE budget_use (
    scope           text NOT NULL,
    period          text NOT NULL,
    starts_on       date NOT NULL,
    reserved_micros bigint NOT NULL DEFAULT 0,
    spent_micros    bigint NOT NULL DEFAULT 0,
    -- Since when it is known that most of it is used.
    warned_at       timestamptz,
    PRIMARY KEY (scope, period, starts_on)
);
CREATE TABLE budget_changes (
    scope           text NOT NULL,
    period          text NOT NULL,
    starts_on       date NOT NULL,
    reserved_micros bigint NOT NULL,
    spent_micros    bigint NOT NULL,
    made_in         xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX budget_changes_by_scope ON budget_changes (scope, period, starts_on);

CREATE FUNCTION vidgen_today() RETURNS date LANGUAGE sql STABLE AS $$
    SELECT (now() AT TIME ZONE 'UTC')::date
$$;

CREATE FUNCTION vidgen_period_start(period text, day date) RETURNS date LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE period
        WHEN 'day' THEN day
        WHEN 'month' THEN date_trunc('month', day::timestamp)::date
        ELSE date '1970-01-01'
    END
$$;

-- The budgets that jobs of these providers and users count against, each with the key of what is
-- used of it; in the order in which they are locked by everybody.
CREATE FUNCTION vidgen_budgets_of(providers text[], users text[])
RETURNS TABLE (scope text, budget text, period text, limit_micros bigint, starts_on date)
LANGUAGE sql STABLE AS $$
    SELECT asked.scope, asked.budget, budgets.period, budgets.limit_micros,
           vidgen_period_start(budgets.period, vidgen_today())
    FROM (
        SELECT 'all' AS scope, 'all' AS budget
        UNION SELECT 'provider:' || name, 'provider:' || name FROM unnest(providers) AS name
        UNION SELECT 'user:' || id, 'user:' || id FROM unnest(users) AS id
        UNION SELECT 'user:' || id, 'each-user' FROM unnest(users) AS id
    ) AS asked
    JOIN budgets ON budgets.scope = asked.budget
    WHERE asked.scope IS NOT NULL AND NOT (
        asked.budget = 'each-user' AND EXISTS (
            SELECT FROM budgets AS own
            WHERE own.scope = asked.scope AND own.period = budgets.period
        )
    )
    ORDER BY asked.scope, budgets.period
$$;

-- Lock what is used of these budgets, before many jobs are inserted by more than one statement.
CREATE FUNCTION vidgen_hold_budgets(providers text[], users text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    held record;
BEGIN
    /* First of all, as those do who only insert: whoever sets a budget keeps them all out. */
    LOCK TABLE ledger IN ROW EXCLUSIVE MODE;
    FOR held IN SELECT * FROM vidgen_budgets_of(providers, users) LOOP
        INSERT INTO budget_use (scope, period, starts_on)
        VALUES (held.scope, held.period, held.starts_on) ON CONFLICT DO NOTHING;
        PERFORM FROM budget_use AS used
        WHERE (used.scope, used.period, used.starts_on) = (held.scope, held.period, held.starts_on)
        FOR UPDATE;
    END LOOP;
END
$$;

-- Refuse what this transaction has just reserved if a budget cannot bear it.
CREATE FUNCTION vidgen_admit(providers text[], users text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held record;
    used record;
BEGIN
    FOR held IN SELECT * FROM vidgen_budgets_of(providers, users) LOOP
        INSERT INTO budget_use (scope, period, starts_on)
        VALUES (held.scope, held.period, held.starts_on) ON CONFLICT DO NOTHING;
        PERFORM FROM budget_use AS use
        WHERE (use.scope, use.period, use.starts_on) = (held.scope, held.period, held.starts_on)
        FOR UPDATE;
        /* A statement of its own: it sees what those have committed who had the lock before us. */
        WITH added AS (
            DELETE FROM budget_changes AS change
            WHERE (change.scope, change.period, change.starts_on)
                = (held.scope, held.period, held.starts_on)
            RETURNING change.*
        ), total AS (
            SELECT coalesce(sum(added.reserved_micros), 0) AS reserved,
                   coalesce(sum(added.spent_micros), 0) AS spent,
                   coalesce(
                       sum(added.reserved_micros) FILTER (WHERE made_in = pg_current_xact_id()), 0
                   ) AS wanted
            FROM added
        )
        UPDATE budget_use AS use SET
            reserved_micros = use.reserved_micros + total.reserved,
            spent_micros = use.spent_micros + total.spent
        FROM total
        WHERE (use.scope, use.period, use.starts_on) = (held.scope, held.period, held.starts_on)
        RETURNING use.reserved_micros AS reserved, use.spent_micros AS spent, total.wanted INTO used;
        IF used.reserved + used.spent > held.limit_micros THEN
            /* The server writes it to its log: it names no user. */
            RAISE EXCEPTION 'the budget is exceeded' USING ERRCODE = 'VG001', DETAIL = json_build_object(
                'scope', CASE WHEN held.scope LIKE 'user:%' THEN 'user' ELSE held.scope END,
                'period', held.period,
                'starts_on', held.starts_on,
                'limit_micros', held.limit_micros,
                'spent_micros', used.spent,
                'reserved_micros', used.reserved - used.wanted,
                'wanted_micros', used.wanted
            );
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION vidgen_refuse_unknown_price(provider text, model text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM budgets) THEN
        RAISE EXCEPTION 'the price is unknown' USING
            ERRCODE = 'VG002', DETAIL = json_build_object('provider', provider, 'model', model);
    END IF;
END
$$;

-- Whatever is entered counts against the budgets that there are, by the same transaction.
CREATE FUNCTION vidgen_count_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM budgets) THEN
        RETURN NULL;
    END IF;
    INSERT INTO budget_changes (scope, period, starts_on, reserved_micros, spent_micros)
    SELECT asked.scope, budgets.period, vidgen_period_start(budgets.period, sums.reserved_on),
           sum(sums.reserved), sum(sums.spent)
    FROM (
        SELECT provider, user_id, reserved_on,
               sum(CASE kind WHEN 'reserved' THEN micros ELSE -micros END) AS reserved,
               sum(CASE WHEN kind IN ('charged', 'wasted') THEN micros ELSE 0 END) AS spent
        FROM entered WHERE payer = 'server'
        GROUP BY provider, user_id, reserved_on
    ) AS sums
    CROSS JOIN LATERAL (
        VALUES ('all', 'all'),
               ('provider:' || sums.provider, 'provider:' || sums.provider),
               ('user:' || sums.user_id, 'user:' || sums.user_id),
               ('user:' || sums.user_id, 'each-user')
    ) AS asked (scope, budget)
    JOIN budgets ON budgets.scope = asked.budget
    WHERE asked.scope IS NOT NULL AND NOT (
        asked.budget = 'each-user' AND EXISTS (
            SELECT FROM budgets AS own
            WHERE own.scope = asked.scope AND own.period = budgets.period
        )
    )
    GROUP BY 1, 2, 3
    HAVING sum(sums.reserved) <> 0 OR sum(sums.spent) <> 0;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_counts AFTER INSERT ON ledger REFERENCING NEW TABLE AS entered
    FOR EACH STATEMENT EXECUTE FUNCTION vidgen_count_entries();

-- New jobs reserve what they are estimated to cost.
CREATE FUNCTION vidgen_reserve_for_new() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros, reserved_on)
    SELECT 'reserved', id, 1, provider, model, coalesce(payer, 'server'), user_id,
           estimated_cost_micros, vidgen_today()
    FROM made WHERE estimated_cost_micros > 0;
    /* Not in the same statement: a budget that was set while we waited for the ledger holds us, too. */
    IF NOT EXISTS (SELECT FROM budgets) THEN
        RETURN NULL;
    END IF;
    FOR one IN
        SELECT provider, model FROM made
        WHERE estimated_cost_micros IS NULL AND NOT allow_unknown_price
          AND reservations > 0 AND coalesce(payer, 'server') = 'server'
        LIMIT 1
    LOOP
        PERFORM vidgen_refuse_unknown_price(one.provider, one.model);
    END LOOP;
    PERFORM vidgen_admit(array_agg(DISTINCT provider), array_agg(DISTINCT user_id))
    FROM made
    WHERE reservations > 0 AND estimated_cost_micros > 0 AND coalesce(payer, 'server') = 'server'
    HAVING count(*) > 0;
    RETURN NULL;
END
$$;
CREATE TRIGGER video_jobs_reserve AFTER INSERT ON video_jobs REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION vidgen_reserve_for_new();

-- As `lifecycle.unknown_attempts` counts.
CREATE FUNCTION vidgen_unknown_attempts(job video_jobs) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT job.unknown_attempts + (job.status IN ('failed', 'cancelled') AND CASE
        WHEN job.stage IN ('submitting', 'generating')
        THEN job.settled_attempt IS DISTINCT FROM job.attempt
        ELSE job.stage = 'transferring' AND job.actual_cost_micros IS NULL
    END)::integer
$$;

-- Who is expected to pay for a job that waits, by what was known when its money was reserved, and who
-- does from the intent on. The credential of one that waits says only whose turn it has.
CREATE FUNCTION vidgen_payer(job video_jobs) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN job.stage = 'queued' OR job.credential_id IS NULL THEN coalesce(job.payer, 'server')
        WHEN job.credential_id = 'server' THEN 'server'
        ELSE 'user'
    END
$$;

-- Enter what a change of a job means for money, by what the ledger has of it and what it should.
CREATE FUNCTION vidgen_keep_books() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    unknowns  integer := vidgen_unknown_attempts(NEW) - vidgen_unknown_attempts(OLD);
    estimate  bigint := coalesce(OLD.estimated_cost_micros, 0);
    payer     text := vidgen_payer(NEW);
    overtaken record;
    entered   record;
    held      record;
    paid      bigint;  /* what has become known */
    for_nothing bigint;  /* how much more of it brought no video */
    uncertain bigint;
    spent     bigint;
    needed    bigint;
    kept      bigint;
BEGIN
    /* A receipt of a target that was left: the event, of the same statement, tells of which. What
       is reserved is for the one in force. */
    IF NEW.unknown_attempts > OLD.unknown_attempts THEN
        SELECT e.type, e.detail INTO overtaken FROM job_events AS e
        WHERE e.job_id = NEW.id ORDER BY e.seq DESC LIMIT 1;
        IF overtaken.type = 'overtaken' THEN
            INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros,
                                uncertain, reserved_on)
            SELECT e.kind, NEW.id, late.attempt, late.provider, late.model,
                   CASE late.credential_id WHEN 'server' THEN 'server' ELSE 'user' END,
                   NEW.user_id, late.estimated_cost_micros, e.uncertain, vidgen_today()
            FROM jsonb_to_record(overtaken.detail) AS late (
                attempt integer, provider text, model text, credential_id text,
                estimated_cost_micros bigint
            )
            CROSS JOIN (VALUES (1, 'reserved', false), (2, 'wasted', true)) AS e (
                number, kind, uncertain
            )
            WHERE late.estimated_cost_micros > 0 ORDER BY e.number;
            RETURN NULL;
        END IF;
    END IF;

    /* What could be told only by the provider can be told after all. */
    IF unknowns < 0 THEN
        INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros, uncertain,
                            reserved_on)
        SELECT 'wasted', NEW.id, OLD.attempt, l.provider, l.model, l.payer, NEW.user_id,
               -sum(l.micros), true, l.reserved_on
        FROM ledger AS l WHERE l.job_id = NEW.id AND l.uncertain AND l.attempt = OLD.attempt
        GROUP BY l.provider, l.model, l.payer, l.reserved_on
        HAVING sum(l.micros) <> 0;
    END IF;

    SELECT coalesce(sum(l.micros) FILTER (WHERE l.kind IN ('charged', 'wasted')), 0) AS paid,
           coalesce(sum(l.micros) FILTER (WHERE l.kind = 'wasted'), 0) AS for_nothing
    INTO entered FROM ledger AS l WHERE l.job_id = NEW.id AND NOT l.uncertain;
    paid := coalesce(NEW.actual_cost_micros, 0) - entered.paid;
    for_nothing := CASE
        WHEN NEW.status IN ('failed', 'cancelled') THEN coalesce(NEW.actual_cost_micros, 0)
        ELSE NEW.lost_cost_micros
    END - entered.for_nothing;
    uncertain := CASE WHEN unknowns > 0 THEN estimate ELSE 0 END;

    /* The attempt that was paid, or may be, takes its reservation; a job of the previous release
       may have none, and a price may be another than the estimate. */
    spent := paid + uncertain;
    IF spent > 0 THEN
        SELECT l.provider, l.payer, l.reserved_on,
               sum(CASE l.kind WHEN 'reserved' THEN l.micros ELSE -l.micros END) AS micros
        INTO held FROM ledger AS l WHERE l.job_id = NEW.id
        GROUP BY l.provider, l.payer, l.reserved_on
        HAVING sum(CASE l.kind WHEN 'reserved' THEN l.micros ELSE -l.micros END) > 0
        ORDER BY l.provider <> OLD.provider, l.reserved_on LIMIT 1;
        IF NOT FOUND THEN
            /* As a sum is: the plans below are kept for one type. */
            SELECT OLD.provider, vidgen_payer(OLD) AS payer, vidgen_today() AS reserved_on,
                   0::numeric AS micros
            INTO held;
        END IF;
        INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros, uncertain,
                            reserved_on)
        SELECT e.kind, NEW.id, OLD.attempt, held.provider, OLD.model, held.payer, NEW.user_id,
               e.micros, e.uncertain, held.reserved_on
        FROM (VALUES
            (1, 'reserved', greatest(spent - held.micros, 0), false),
            (2, 'charged', paid - least(paid, greatest(for_nothing, 0)), false),
            (3, 'wasted', least(paid, greatest(for_nothing, 0)), false),
            (4, 'wasted', uncertain, true)
        ) AS e (number, kind, micros, uncertain)
        WHERE e.micros > 0 ORDER BY e.number;
        for_nothing := for_nothing - least(paid, greatest(for_nothing, 0));
    END IF;

    /* A video that was paid for and then not delivered, or is delivered after all. */
    IF for_nothing <> 0 THEN
        INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros,
                            reserved_on)
        SELECT e.kind, NEW.id, moved.attempt, moved.provider, moved.model, moved.payer, NEW.user_id,
               e.sign * moved.micros, moved.reserved_on
        FROM (
            SELECT l.attempt, l.provider, l.model, l.payer, l.reserved_on, sum(l.micros) AS micros
            FROM ledger AS l
            WHERE l.job_id = NEW.id AND NOT l.uncertain
              AND CASE
                  WHEN for_nothing > 0 THEN l.kind = 'charged'
                  ELSE l.kind = 'wasted' AND l.attempt = OLD.attempt
              END
            GROUP BY l.attempt, l.provider, l.model, l.payer, l.reserved_on
            HAVING sum(l.micros) > 0
        ) AS moved
        CROSS JOIN (VALUES
            ('charged', -sign(for_nothing)), ('wasted', sign(for_nothing))
        ) AS e (kind, sign);
    END IF;

    /* What the job still needs stays reserved, and nothing else. */
    needed := CASE
        WHEN NEW.completed_at IS NOT NULL OR NEW.stage = 'transferring' THEN 0
        WHEN NEW.stage = 'queued' OR NEW.settled_attempt IS DISTINCT FROM NEW.attempt
        THEN coalesce(NEW.estimated_cost_micros, 0)
        ELSE 0
    END;
    FOR held IN
        SELECT l.provider, l.payer, l.reserved_on,
               sum(CASE l.kind WHEN 'reserved' THEN l.micros ELSE -l.micros END) AS micros
        FROM ledger AS l WHERE l.job_id = NEW.id
        GROUP BY l.provider, l.payer, l.reserved_on
        HAVING sum(CASE l.kind WHEN 'reserved' THEN l.micros ELSE -l.micros END) > 0
        ORDER BY l.reserved_on
    LOOP
        /* Who pays for one that waits is seen when it is sent: until then it keeps what it has. */
        kept := CASE
            WHEN held.provider = NEW.provider AND (
                held.payer = payer
                OR (NEW.stage = 'queued' AND NEW.reservations = OLD.reservations)
            ) THEN least(held.micros, needed)
            ELSE 0
        END;
        needed := needed - kept;
        IF held.micros > kept THEN
            INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros,
                                reserved_on)
            VALUES ('released', NEW.id, NEW.attempt, held.provider, OLD.model, held.payer,
                    NEW.user_id, held.micros - kept, held.reserved_on);
        END IF;
    END LOOP;
    IF needed > 0 THEN
        INSERT INTO ledger (kind, job_id, attempt, provider, model, payer, user_id, micros,
                            reserved_on)
        VALUES ('reserved', NEW.id, NEW.attempt + (NEW.stage = 'queued')::integer, NEW.provider,
                NEW.model, payer, NEW.user_id, needed, vidgen_today());
    END IF;
    IF NEW.reservations > OLD.reservations AND payer = 'server' THEN
        IF needed > 0 THEN
            PERFORM vidgen_admit(ARRAY[NEW.provider], ARRAY[NEW.user_id]);
        ELSIF NEW.estimated_cost_micros IS NULL AND NOT NEW.allow_unknown_price THEN
            PERFORM vidgen_refuse_unknown_price(NEW.provider, NEW.model);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER video_jobs_keep_books AFTER UPDATE ON video_jobs FOR EACH ROW
    WHEN (
        NEW.actual_cost_micros IS DISTINCT FROM OLD.actual_cost_micros
        OR NEW.settled_attempt IS DISTINCT FROM OLD.settled_attempt
        OR NEW.lost_cost_micros <> OLD.lost_cost_micros
        OR NEW.unknown_attempts <> OLD.unknown_attempts
        OR NEW.estimated_cost_micros IS DISTINCT FROM OLD.estimated_cost_micros
        OR NEW.provider <> OLD.provider
        OR (NEW.completed_at IS NULL) <> (OLD.completed_at IS NULL)
        -- A paid video is given up for another attempt.
        OR (OLD.stage = 'transferring' AND NEW.stage <> 'transferring')
        -- Another one may pay than was expected, and a budget may be in force by now.
        OR (OLD.stage = 'queued' AND NEW.stage <> 'queued')
        OR (NEW.credential_id IS DISTINCT FROM OLD.credential_id AND NEW.stage <> 'queued')
        OR (NEW.reservations > OLD.reservations AND NEW.estimated_cost_micros IS NULL)
    )
    EXECUTE FUNCTION vidgen_keep_books();

-- Entries stay as they are; only who is forgotten leaves them, once their job is deleted.
CREATE FUNCTION vidgen_guard_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.user_id IS NULL AND to_jsonb(NEW) - 'user_id' = to_jsonb(OLD) - 'user_id'
           AND NOT EXISTS (SELECT FROM video_jobs WHERE id = OLD.job_id) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the ledger is only ever added to' USING ERRCODE = 'VG003';
END
$$;
CREATE TRIGGER ledger_guard BEFORE UPDATE OR DELETE ON ledger FOR EACH ROW
    EXECUTE FUNCTION vidgen_guard_ledger();
CREATE TRIGGER ledger_guard_all BEFORE TRUNCATE ON ledger FOR EACH STATEMENT
    EXECUTE FUNCTION vidgen_guard_ledger();

-- Whichever release is done with forgetting a user: sums stay, the person does not.
CREATE FUNCTION vidgen_forget_in_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger SET user_id = NULL
    WHERE user_id = OLD.user_id AND NOT EXISTS (SELECT FROM video_jobs WHERE id = ledger.job_id);
    /* Who came again meanwhile keeps the budget. */
    IF NOT EXISTS (SELECT FROM video_jobs WHERE user_id = OLD.user_id) THEN
        DELETE FROM budgets WHERE scope = 'user:' || OLD.user_id;
        DELETE FROM budget_use WHERE scope = 'user:' || OLD.user_id;
        DELETE FROM budget_changes WHERE scope = 'user:' || OLD.user_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER erasures_forget_in_ledger AFTER DELETE ON erasures FOR EACH ROW
    EXECUTE FUNCTION vidgen_forget_in_ledger();
